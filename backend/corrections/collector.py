"""From kept webhooks to corrections: what `python -m backend collect` does.

Every step may happen twice, in any order, and stop half-way: an event stays pending until what it says is in
the database, a newer annotation is never replaced by an older one, and what was deleted stays deleted.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job
from sqlalchemy import select

from backend.corrections.announce import announce
from backend.corrections.compare import NotUnderstood, Proposed, compare, from_stored, read_regions, turns
from backend.corrections.webhook_inbox import Inbox, enqueue_event
from backend.job_names import ANNOUNCE_VERSION, CORRECTIONS_QUEUE
from backend.label_studio.client import LabelStudioApi, LabelStudioUnavailable
from backend.settings import BackendSettings
from label_config import ConfigError, read_config
from worker.images.decode import ImageError, decode
from worker.images.fetch import ImageFetcher
from worker.jobs.queue import QueueUnavailable, connect
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, runs
from worker.store import corrections as kept
from worker.store.tables import Correction, Event, Proposal, TrainingRun, now

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 12  # the last after an hour's pause; then `reconcile` or a person has to help
LONGEST_PAUSE_S = 3600
LOST_AFTER_S = 60
ANNOUNCE_TIMEOUT_S = 3600
# What is wrong with an image that will be wrong again.
LASTING = ("reference", "address", "too_large", "format")


@dataclass
class Collector:
    """Understands events and annotations and stores what they teach."""

    settings: BackendSettings
    database: Database
    blobs: Blobs
    fetcher: ImageFetcher
    connection: Redis
    max_pixels: int

    def apply(self, action: str, project: str | None, body: dict[str, Any]) -> None:
        """Raises NotUnderstood, ConfigError, ImageError, LabelStudioUnavailable, DatabaseUnavailable."""
        match action:
            case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
                several = body.get("annotations", [])
                for annotation in [body["annotation"]] if "annotation" in body else several:
                    task = body.get("task")
                    if not isinstance(task, dict) or task.get("id") != _id_of(annotation.get("task")):
                        task = self._api().task(str(_id_of(annotation.get("task"))))
                    self.take(annotation, task, str(project), str(_project_field(body, "label_config")))
            case "ANNOTATIONS_DELETED":
                self.drop_annotations([str(one["id"]) for one in body["annotations"]], str(project))
            case "TASKS_DELETED":
                with self.database.session() as session:
                    tasks = [str(one["id"]) for one in body["tasks"]]
                    unused = [
                        image for one in tasks for image in kept.forget_task(session, one, str(project))
                    ]
                kept.discard(self.blobs, unused)
            case _:  # kept as a record; nothing to learn
                pass

    def take(self, annotation: dict[str, Any], task: dict[str, Any], project: str, label_config: str) -> bool:
        """Stores what one annotation teaches; says whether it was news. Raises as `apply` does."""
        number, task_id = str(annotation["id"]), str(task["id"])
        updated_at = datetime.fromisoformat(annotation["updated_at"])
        with self.database.session() as session:
            if not kept.is_news(session, number, task_id, updated_at):
                return False
        correction = Correction(
            annotation=number,
            project=project,
            task=task_id,
            status="skipped",
            updated_at=updated_at,
            turns=[],
            outcomes=[],
            effort_s=annotation.get("lead_time"),
            taken_at=now(),
        )
        if not annotation.get("was_cancelled"):
            self._understand(correction, annotation["result"], task, label_config)
        with self.database.session() as session:
            fresh = kept.keep(session, correction)
        if fresh:
            log.info(
                "project %s, task %s: annotation %s is %s, %d turns",
                project,
                task_id,
                number,
                correction.status,
                len(correction.turns),
            )
            self._train_if_due(project)
        return fresh

    def _understand(
        self, correction: Correction, result: Sequence[Any], task: dict[str, Any], label_config: str
    ) -> None:
        config = read_config(label_config)
        regions = read_regions(result, config)
        with self.database.session() as session:
            jobs = [region.job for region in regions if region.job]
            rows = kept.proposals_of(session, correction.project, correction.task, jobs)
        proposals = [_proposed(row) for row in rows]
        outcomes = compare(regions, proposals, config, empty=not regions)
        correction.status = "labelled" if regions else "empty"
        correction.turns = turns(outcomes, proposals)
        correction.outcomes = [outcome.as_json() for outcome in outcomes]
        answered = {outcome.job for outcome in outcomes}
        correction.model_version = next((p.model_version for p in proposals if p.job in answered), None)
        if not correction.turns:
            return
        data = self.fetcher.read(str(task["data"][config.image.key]), correction.task)
        width, height = decode(data, self.max_pixels).size
        if regions and regions[0].mask.shape != (height, width):
            of_mask = " x ".join(map(str, regions[0].mask.shape[::-1]))
            raise NotUnderstood(f"its masks are of {of_mask} pixels, its image of {width} x {height}")
        correction.image, correction.width, correction.height = self.blobs.put(data), width, height

    def drop_annotations(self, annotations: Sequence[str], project: str) -> None:
        with self.database.session() as session:
            unused = [kept.forget(session, one, project) for one in annotations]
        kept.discard(self.blobs, [image for image in unused if image])

    def reconcile(self, project: str) -> dict[str, int]:
        """Compares with Label Studio's own annotations and takes what was missed; counts by what was done.

        Raises LabelStudioUnavailable, and then nothing is taken for deleted.
        """
        api = self._api()
        label_config = str(api.project(project)["label_config"])
        counts = {"seen": 0, "taken": 0, "deleted": 0, "failed": 0}
        seen = set()
        began = now()
        for task in api.tasks(project):
            for annotation in task.get("annotations", []):
                counts["seen"] += 1
                seen.add(str(annotation["id"]))
                try:
                    counts["taken"] += self.take(annotation, task, project, label_config)
                except (NotUnderstood, ConfigError, ImageError) as error:
                    counts["failed"] += 1
                    log.warning("annotation %s is not learned from: %s", annotation["id"], error)
        with self.database.session() as session:
            # One that was taken while the pages were read may be on none of them.
            known = session.scalars(
                select(Correction.annotation).where(
                    Correction.project == project,
                    Correction.status != "deleted",
                    Correction.taken_at < began,
                )
            ).all()
        gone = [annotation for annotation in known if annotation not in seen]
        self.drop_annotations(gone, project)
        counts["deleted"] = len(gone)
        log.info("project %s is reconciled: %s", project, counts)
        return counts

    def _train_if_due(self, project: str) -> None:
        every = self.settings.retrain_every
        if not every:
            return
        with self.database.session() as session:
            last = runs.last_started(session, project)
            fresh = len(kept.learned_from(session, project, last.started_at if last else None))
        if fresh >= every:
            runs.request(self.database, self.connection, project, f"{fresh} new corrections")

    def _api(self) -> LabelStudioApi:
        return LabelStudioApi(self.settings)


@functools.cache
def collector() -> Collector:
    """This process's own, from its environment."""
    settings, fetching = BackendSettings.model_validate({}), WorkerSettings.model_validate({})
    return Collector(
        settings,
        Database(settings),
        Blobs(settings),
        ImageFetcher(fetching),
        connect(settings.redis_url),
        fetching.max_image_pixels,
    )


def process_event(number: int) -> None:
    """The job of one kept event. What cannot be done now is tried again later, with growing pauses."""
    mine = collector()
    with mine.database.session() as session:
        event = session.get(Event, number)
    if event is None or event.state != "pending":
        return
    state, reason, pause_s = "done", None, 0.0
    try:
        mine.apply(event.action, event.project, json.loads(event.body))
    except (ImageError, LabelStudioUnavailable) as error:
        reason = str(error)
        pause_s = min(2.0**event.attempts, LONGEST_PAUSE_S)
        lasting = isinstance(error, ImageError) and error.kind in LASTING
        state = "failed" if lasting or event.attempts + 1 >= MOST_ATTEMPTS else "pending"
    except (NotUnderstood, ConfigError) as error:
        state, reason = "failed", str(error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        state, reason = (
            "failed",
            f"the event is not what Label Studio sends ({type(error).__name__}: {error})",
        )
    with mine.database.session() as session:
        event = session.get_one(Event, number)
        event.state, event.reason, event.attempts = state, reason, event.attempts + 1
        event.due_at = now() + timedelta(seconds=pause_s)
        if state == "done":
            event.body = ""  # what it said is in the tables now
    if reason:
        log.warning("event %d (%s) is %s: %s", number, event.action, state, reason)


def announce_version(run: int) -> None:
    """The job of a promotion. What fails is logged; the version serves all the same."""
    mine = collector()
    with mine.database.session() as session:
        promoted = session.get_one(TrainingRun, run)
        project, version = promoted.project, str(promoted.version)
    try:
        announce(mine.settings, mine.database, project, version)
    except (LabelStudioUnavailable, ConfigError, QueueUnavailable) as error:
        log.warning("project %s: Label Studio is not told of %s: %s", project, version, error)
    with mine.database.session() as session:
        session.get_one(TrainingRun, run).announced_at = now()


def enqueue_announcements(database: Database, connection: Redis) -> None:
    """Has Label Studio told of the versions that were promoted since it was told last."""
    queue = Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json")
    with database.session() as session:
        promoted = session.scalars(
            select(TrainingRun.id).where(TrainingRun.state == "promoted", TrainingRun.announced_at.is_(None))
        ).all()
    for run in promoted:
        job_id = f"announce-{run}"
        if not Job.exists(job_id, connection):
            queue.enqueue_call(
                ANNOUNCE_VERSION,
                args=(run,),
                job_id=job_id,
                timeout=ANNOUNCE_TIMEOUT_S,
                result_ttl=0,
                failure_ttl=60,
            )


def requeue_overdue() -> None:
    """Events that the database or Redis could not take, or whose time has come again, and lost trainings."""
    mine = collector()
    Inbox(mine.database, mine.connection, mine.settings.data_dir / "inbox").empty_spool()
    overdue = now() - timedelta(seconds=LOST_AFTER_S)
    with mine.database.session() as session:
        retried = (Event.attempts > 0) & (Event.due_at <= now())
        lost = Event.due_at <= overdue
        query = select(Event.id).where(Event.state == "pending", retried | lost).order_by(Event.id)
        due = session.scalars(query.limit(1000)).all()
    for number in due:
        enqueue_event(mine.connection, number)
    runs.requeue(mine.database, mine.connection)
    enqueue_announcements(mine.database, mine.connection)


def reconcile_all() -> None:
    """Every project that we know anything of."""
    mine = collector()
    for project in known_projects(mine.database):
        try:
            mine.reconcile(project)
        except LabelStudioUnavailable as error:
            log.warning("project %s is not reconciled: %s", project, error)


def train_all() -> None:
    """Asks for a training of each project with corrections that its last one did not know."""
    mine = collector()
    for project in known_projects(mine.database):
        with mine.database.session() as session:
            last = runs.last_started(session, project)
            fresh = len(kept.learned_from(session, project, last.started_at if last else None))
        if fresh:
            reason = f"on schedule, {fresh} new corrections"
            runs.request(mine.database, mine.connection, project, reason)


def known_projects(database: Database) -> list[str]:
    with database.session() as session:
        tables = (Event.project, Proposal.project, Correction.project)
        found = {name for column in tables for name in session.scalars(select(column).distinct()) if name}
    return sorted(found)


def _proposed(row: Proposal) -> Proposed:
    return Proposed(
        job=row.job,
        prompt=row.prompt,
        answer=row.answer,
        targets=from_stored(row.targets),
        history=tuple((prompt, answer) for prompt, answer in row.history),
        model_version=row.model_version,
    )


def _project_field(body: dict[str, Any], name: str) -> Any:
    project = body.get("project")
    if not isinstance(project, dict) or name not in project:
        raise NotUnderstood(f"the event's project has no {name}")
    return project[name]


def _id_of(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value
