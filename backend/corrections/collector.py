"""Applies events and annotations: stores what an annotation teaches, and forgets what is deleted.

Every step may happen twice, in any order, and stop half-way: an event stays pending until its content is in
the database, an older annotation never replaces a newer one, and what was deleted stays deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from sqlalchemy import select

from backend.corrections.annotation import Region, UnreadableAnnotation, read_regions
from backend.corrections.compare import ProposedAnswer, compare, targets_from_json
from backend.corrections.evidence import (
    annotator_of,
    is_unseen,
    read_evidence,
    review_of,
    seconds_spent,
)
from backend.corrections.training_turns import training_turns
from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.settings import BackendSettings
from label_config import ConfigError, read_config
from worker.images.decode import ImageError, decode
from worker.images.fetch import ImageFetcher
from worker.jobs.queue import connect
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, runs
from worker.store import corrections as corrections_store
from worker.store.tables import Correction, Event, Proposal, now

log = logging.getLogger(__name__)

UNSEEN = "nobody has looked at it: it is a copy of a prediction, and its masks are only the model's"
EMPTY = (
    "it has no masks, which may only have been forgotten; where nothing is there, choose "
    '"Nothing more to mark" in the editor (the control nothing_else)'
)


@dataclass
class Collector:
    """Turns events and annotations into rows of `corrections`.

    Attributes:
        settings: The backend's settings.
        database: Where corrections are stored.
        blobs: Where their images are stored.
        fetcher: Reads images of tasks.
        connection: The Redis that trainings are queued in.
        max_pixels: Images with more pixels are refused.
    """

    settings: BackendSettings
    database: Database
    blobs: Blobs
    fetcher: ImageFetcher
    connection: Redis
    max_pixels: int

    @classmethod
    def from_environment(cls) -> Collector:
        """Make a collector from environment variables.

        Raises:
            ValidationError: A variable has an invalid value.
        """
        settings, worker_settings = BackendSettings.model_validate({}), WorkerSettings.model_validate({})
        return cls(
            settings,
            Database(settings),
            Blobs(settings),
            ImageFetcher(worker_settings),
            connect(settings.redis_url),
            worker_settings.max_image_pixels,
        )

    def apply(self, action: str, project: str | None, body: dict[str, Any]) -> None:
        """Apply an event to the corrections.

        Args:
            action: Label Studio's name of the event; those that teach nothing are ignored.
            project: The project's id.
            body: The event's JSON.

        Raises:
            UnreadableAnnotation: An annotation cannot be learned from.
            ConfigError: The labeling configuration cannot be used.
            ImageError: The task's image cannot be read.
            LabelStudioUnavailable: Label Studio was needed and does not answer.
            DatabaseUnavailable: The database cannot be used.
        """
        match action:
            case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
                self._store_all(body, str(project))
            case "ANNOTATIONS_DELETED":
                self.forget([str(annotation["id"]) for annotation in body["annotations"]], str(project))
            case "PROJECT_DELETED":
                self.forget_project(str(project))
            case "TASKS_DELETED":
                self.forget_tasks([str(task["id"]) for task in body["tasks"]], str(project))
            case _:  # START_TRAINING: the training was requested when the event was stored
                pass

    def store(
        self, annotation: dict[str, Any], task: dict[str, Any], project: str, label_config: str
    ) -> bool:
        """Store what an annotation teaches, and request a training when enough is new.

        Args:
            annotation: The annotation with its `result`.
            task: Its task with its data.
            project: The project's id.
            label_config: The project's labeling configuration.

        Returns:
            Whether the annotation was new or newer than the stored one.

        Raises:
            UnreadableAnnotation: The annotation cannot be learned from.
            ConfigError: The labeling configuration cannot be used.
            ImageError: The task's image cannot be read.
            DatabaseUnavailable: The database cannot be used.
        """
        annotation_id, task_id = str(annotation["id"]), str(task["id"])
        updated_at = _moment(annotation["updated_at"])
        with self.database.read() as session:
            if not corrections_store.is_newer(session, annotation_id, task_id, updated_at):
                return False
            former = session.get(Correction, annotation_id)
            former_image = former.image if former else None
        correction = Correction(
            annotation=annotation_id,
            project=project,
            task=task_id,
            status="skipped",
            updated_at=updated_at,
            # What is not set would keep the value of the annotation's former state.
            image=None,
            width=None,
            height=None,
            turns=[],
            outcomes=[],
            model_version=None,
            reason=None,
            effort_s=seconds_spent(annotation),
            annotator=annotator_of(annotation),
            review=review_of(annotation),
            taken_at=now(),
        )
        unreadable: UnreadableAnnotation | None = None
        if not annotation.get("was_cancelled"):
            try:
                self._fill(correction, annotation, task, label_config)
            except UnreadableAnnotation as error:
                # What it taught before is not its last word any more.
                correction.status, correction.reason = "unreadable", str(error)
                unreadable = error
        with self.database.session() as session:
            stored = corrections_store.store(session, correction)
        self._delete_unused({former_image} - {correction.image} if stored else {correction.image})
        if unreadable is not None:
            raise unreadable
        if stored:
            log.info(
                "project %s, task %s: annotation %s is %s, %d turns",
                project,
                task_id,
                annotation_id,
                correction.status,
                len(correction.turns),
            )
            self._request_training_if_due(project)
        return stored

    def forget(self, annotations: Sequence[str], project: str) -> None:
        """Delete what the annotations with these ids taught, and their images unless others need them."""
        with self.database.session() as session:
            images = [
                corrections_store.forget(session, annotation_id, project) for annotation_id in annotations
            ]
        corrections_store.delete_images(self.blobs, [image for image in images if image])

    def forget_tasks(self, tasks: Sequence[str], project: str) -> None:
        """Delete what all annotations of these tasks taught; later ones of them are ignored."""
        with self.database.session() as session:
            images = [
                image
                for task_id in tasks
                for image in corrections_store.forget_task(session, task_id, project)
            ]
        corrections_store.delete_images(self.blobs, images)

    def forget_project(self, project: str) -> None:
        """Delete what a project's annotations taught, its proposals and its events."""
        with self.database.session() as session:
            images = corrections_store.forget_project(session, project)
        corrections_store.delete_images(self.blobs, images)

    def known_projects(self) -> list[str]:
        """Return the ids of all projects with events, proposals or corrections."""
        with self.database.read() as session:
            queries = (
                select(Event.project).where(Event.action != "PROJECT_DELETED"),
                select(Proposal.project),
                select(Correction.project),
            )
            projects = {
                project for query in queries for project in session.scalars(query.distinct()) if project
            }
        return sorted(projects)

    def count_new_corrections(self, project: str) -> int:
        """Return how many corrections the project's last training did not know."""
        with self.database.read() as session:
            last = runs.last_started(session, project)
            since = last.started_at if last else None
            reviewed_only = self.settings.train_on == "reviewed"
            return corrections_store.count_training_corrections(session, project, since, reviewed_only)

    def _request_training_if_due(self, project: str) -> None:
        threshold = self.settings.retrain_every
        if threshold and (new := self.count_new_corrections(project)) >= threshold:
            runs.request(self.database, self.connection, project, f"{new} new corrections")

    def _store_all(self, body: dict[str, Any], project: str) -> None:
        """Store the annotations of an event, one or many; one that fails does not keep the others back."""
        annotations = body["annotation"]
        errors: list[Exception] = []
        for annotation in annotations if isinstance(annotations, list) else [annotations]:
            try:
                task = self._task_of(annotation, body)
                self.store(annotation, task, project, str(_project_field(body, "label_config")))
            except (UnreadableAnnotation, ConfigError, ImageError, LabelStudioUnavailable) as error:
                errors.append(error)
        if errors:
            # One that another attempt may help comes first.
            raise min(errors, key=lambda error: isinstance(error, UnreadableAnnotation | ConfigError))

    def _fill(
        self, correction: Correction, annotation: dict[str, Any], task: dict[str, Any], label_config: str
    ) -> None:
        """Fill in what the annotation teaches: status, turns, outcomes, and the image if there are turns."""
        task_data = task.get("data") or {}
        config = read_config(label_config).for_task(task_data)
        regions = read_regions(annotation["result"], config)
        evidence = read_evidence(annotation)
        proposals = self._proposals(correction, regions)
        outcomes = compare(regions, proposals, config, evidence)
        correction.status = "labelled" if regions else "empty"
        correction.outcomes = [outcome.as_json() for outcome in outcomes]
        used_jobs = {outcome.job for outcome in outcomes}
        correction.model_version = next((p.model_version for p in proposals if p.job in used_jobs), None)
        if regions and is_unseen(annotation, all(outcome.kind == "accepted" for outcome in outcomes)):
            correction.status, correction.reason = "unseen", UNSEEN
            return
        turns, reasons = training_turns(outcomes, proposals, config, evidence)
        if not regions and not evidence.nothing_else:
            reasons.append(EMPTY)
        correction.reason = "; ".join(reasons) or None
        if not turns:
            return
        data = self.fetcher.read(str(config.image_of(task_data)), correction.task)
        width, height = decode(data, self.max_pixels).size
        if regions and regions[0].mask.shape != (height, width):
            mask_size = " x ".join(map(str, regions[0].mask.shape[::-1]))
            raise UnreadableAnnotation(
                f"its masks are of {mask_size} pixels, its image of {width} x {height}"
            )
        correction.turns = turns
        correction.image, correction.width, correction.height = self.blobs.put(data), width, height

    def _delete_unused(self, images: Iterable[str | None]) -> None:
        """Delete those of these images that no correction needs."""
        if candidates := [image for image in images if image]:
            with self.database.read() as session:
                unused = [image for image in candidates if not corrections_store.is_used(session, image)]
            corrections_store.delete_images(self.blobs, unused)

    def _proposals(self, correction: Correction, regions: Sequence[Region]) -> list[ProposedAnswer]:
        """Return what was proposed in the task, and the proposals that the regions came from."""
        jobs = [region.job for region in regions if region.job]
        with self.database.read() as session:
            rows = corrections_store.proposals_of(session, correction.project, correction.task, jobs)
        return [
            ProposedAnswer(
                job=row.job,
                prompt=row.prompt,
                answer=row.answer,
                targets=targets_from_json(row.targets),
                history=tuple((prompt, answer) for prompt, answer in row.history),
                model_version=row.model_version,
            )
            for row in rows
        ]

    def _task_of(self, annotation: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """Return the annotation's task: from the event if it is there, else from Label Studio."""
        task = body.get("task")
        task_id = _id_of(annotation.get("task"))
        for candidate in task if isinstance(task, list) else [task]:
            if isinstance(candidate, dict) and candidate.get("id") == task_id:
                return candidate
        return self._label_studio().task(str(task_id))

    def _label_studio(self) -> LabelStudioClient:
        return LabelStudioClient(self.settings)


def _project_field(body: dict[str, Any], name: str) -> Any:
    project = body.get("project")
    if not isinstance(project, dict) or name not in project:
        raise UnreadableAnnotation(f"the event's project has no {name}")
    return project[name]


def _moment(text: str) -> datetime:
    """Parse a time; Label Studio's have a zone."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _id_of(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value
