"""Reads and writes corrections and proposals. The caller holds the transaction (`Session`)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from worker.jobs.contract import SegmentJob, SegmentResult
from worker.store.blobs import Blobs
from worker.store.tables import Correction, Event, Proposal, now

log = logging.getLogger(__name__)

TRAINED_STATUSES = ("labelled", "empty")  # statuses of corrections that are trained on
REVIEWED = ("ground_truth", "accepted")  # reviews that say that a correction is right
MAX_PROPOSALS = 50  # the newest of a task that are considered
CLOCK_TOLERANCE = timedelta(hours=1)  # of Label Studio's clock


def record_proposal(
    session: Session, job: SegmentJob, result: SegmentResult, hidden: Collection[int] = ()
) -> None:
    """Record the answer to a job, once for each task.

    Args:
        session: The transaction.
        job: The job; with the same answer again, only what is hidden is updated.
        result: Its answer.
        hidden: The indices of the targets that the annotator is not shown; nothing is learned from those.
    """
    key = (result.job_id, job.project or "", job.task or "")
    targets = [
        target.model_dump(mode="json") | ({"hidden": True} if index in hidden else {})
        for index, target in enumerate(result.targets)
    ]
    known = session.get(Proposal, key)
    if known is not None:
        known.targets = targets
        return
    session.add(
        Proposal(
            job=key[0],
            project=key[1],
            task=key[2],
            prompt=job.prompt,
            history=[[turn.prompt, turn.answer] for turn in job.history],
            answer=result.answer,
            model_version=result.model_version,
            width=result.width,
            height=result.height,
            targets=targets,
        )
    )


def proposals_of(session: Session, project: str, task: str, jobs: Iterable[str]) -> list[Proposal]:
    """Find the proposals that an annotation of a task may be a correction of.

    Args:
        session: The transaction.
        project: The task's project.
        task: The task.
        jobs: Ids of jobs whose answers are included whichever task they were shown in.

    Returns:
        The task's MAX_PROPOSALS newest proposals and those of `jobs`, oldest first.
    """
    newest = session.scalars(
        select(Proposal)
        .where(Proposal.project == project, Proposal.task == task)
        .order_by(Proposal.at.desc())
        .limit(MAX_PROPOSALS)
    )
    proposals = {proposal.job: proposal for proposal in newest}
    if missing := [job for job in set(jobs) if job not in proposals]:
        elsewhere = session.scalars(select(Proposal).where(Proposal.job.in_(missing)))
        proposals |= {proposal.job: proposal for proposal in elsewhere}
    return sorted(proposals.values(), key=lambda proposal: proposal.at)


def is_newer(session: Session, annotation: str, task: str, updated_at: datetime) -> bool:
    """Return whether an annotation is newer than what is stored of it.

    Args:
        session: The transaction.
        annotation: The annotation.
        task: Its task.
        updated_at: When the annotation was changed, by Label Studio's clock.

    Returns:
        False also if the annotation or its task was deleted.
    """
    if session.get(Correction, _tombstone_key(task)) is not None:
        return False
    stored = session.get(Correction, annotation)
    if stored is None:
        return True
    if stored.status == "deleted" or stored.updated_at == updated_at:
        # What could not be read may be readable now.
        return stored.status == "unreadable"
    # A time far in the future is that of a wrong clock, and must not outlast the annotation's later changes.
    return stored.updated_at < updated_at or stored.updated_at > now() + CLOCK_TOLERANCE


def store(session: Session, correction: Correction) -> bool:
    """Store a correction unless a newer one or a deletion is stored; returns whether it was stored."""
    if not is_newer(session, correction.annotation, correction.task, correction.updated_at):
        return False
    session.merge(correction)
    return True


def forget(session: Session, annotation: str, project: str) -> str | None:
    """Delete the content of an annotation's correction and mark it as deleted.

    Args:
        session: The transaction.
        annotation: The annotation; it need not be known.
        project: Its project.

    Returns:
        The name of its image if no other correction uses that; the caller deletes it.
    """
    correction = session.get(Correction, annotation)
    if correction is not None and correction.project != project:
        log.warning("annotation %s is not of project %s, which deletes it; it stays", annotation, project)
        return None
    image = correction.image if correction else None
    if correction is None:
        session.add(_tombstone(annotation, project, ""))
    else:
        correction.status, correction.image = "deleted", None
        correction.turns, correction.outcomes, correction.reason = [], [], None
        correction.taken_at = now()
    return image if image and not is_used(session, image) else None


def is_used(session: Session, image: str) -> bool:
    """Return whether a correction needs an image of the store."""
    session.flush()
    return session.scalar(select(Correction.annotation).where(Correction.image == image).limit(1)) is not None


def used_images(session: Session) -> set[str]:
    """Return the names of all images that corrections need."""
    return set(session.scalars(select(Correction.image).where(Correction.image.is_not(None)).distinct()))


def forget_task(session: Session, task: str, project: str) -> list[str]:
    """Delete the corrections of a task's annotations and its proposals.

    A tombstone marks the task as deleted, so that events about it that come later are ignored.

    Args:
        session: The transaction.
        task: The task.
        project: Its project.

    Returns:
        The names of the images that no other correction uses; the caller deletes them.
    """
    annotations = session.scalars(
        select(Correction.annotation).where(Correction.task == task, Correction.status != "deleted")
    ).all()
    if session.get(Correction, _tombstone_key(task)) is None:
        session.add(_tombstone(_tombstone_key(task), project, task))
    session.execute(delete(Proposal).where(Proposal.project == project, Proposal.task == task))
    images = [forget(session, annotation, project) for annotation in annotations]
    return [image for image in images if image]


def forget_project(session: Session, project: str) -> list[str]:
    """Delete the corrections, proposals and events of a project.

    Returns:
        The names of the images that no other correction uses; the caller deletes them.
    """
    of_project = Correction.project == project
    images = set(session.scalars(select(Correction.image).where(of_project, Correction.image.is_not(None))))
    session.execute(delete(Correction).where(of_project))
    session.execute(delete(Proposal).where(Proposal.project == project))
    session.execute(delete(Event).where(Event.project == project))
    return [image for image in images if image and not is_used(session, image)]


def revive(session: Session, annotation: str, task: str, before: datetime) -> None:
    """Take back that an annotation and its task were deleted.

    Args:
        session: The transaction.
        annotation: An annotation that Label Studio has.
        task: Its task.
        before: Later deletions stay: Label Studio may have been asked before them.
    """
    for key in (annotation, _tombstone_key(task)):
        row = session.get(Correction, key)
        if row is not None and row.status == "deleted" and row.taken_at < before:
            session.delete(row)


def training_corrections(
    session: Session, project: str, since: datetime | None = None, reviewed_only: bool = False
) -> list[Correction]:
    """Find the corrections to train on.

    Args:
        session: The transaction.
        project: The project.
        since: Only those stored after this moment.
        reviewed_only: Only ground truth and what a reviewer accepted; what one rejected never counts.

    Returns:
        The corrections with at least one turn, in a fixed order.
    """
    query = select(Correction).where(*_trained_on(project, since, reviewed_only))
    return list(session.scalars(query.order_by(Correction.annotation)))


def count_training_corrections(
    session: Session, project: str, since: datetime | None = None, reviewed_only: bool = False
) -> int:
    """Count what `training_corrections` returns."""
    return session.scalar(select(func.count()).where(*_trained_on(project, since, reviewed_only))) or 0


def _trained_on(project: str, since: datetime | None, reviewed_only: bool) -> list[ColumnElement[bool]]:
    """The conditions of corrections to train on; only those with turns have an image."""
    conditions = [
        Correction.project == project,
        Correction.status.in_(TRAINED_STATUSES),
        Correction.image.is_not(None),
        Correction.review.in_(REVIEWED)
        if reviewed_only
        else or_(Correction.review.is_(None), Correction.review != "rejected"),
    ]
    return conditions if since is None else [*conditions, Correction.taken_at > since]


def delete_images(blobs: Blobs, images: Iterable[str]) -> None:
    """Delete images from the store."""
    for image in images:
        blobs.delete(image)


def _tombstone_key(task: str) -> str:
    """The key of a deleted task's tombstone, a row in the table of corrections; annotations are numbers."""
    return f"task-{task}"


def _tombstone(key: str, project: str, task: str) -> Correction:
    """A row that marks an annotation, or with `_tombstone_key` a task, as deleted."""
    nothing: list[Any] = []
    return Correction(
        annotation=key,
        project=project,
        task=task,
        status="deleted",
        updated_at=now(),
        turns=nothing,
        outcomes=nothing,
    )
