"""Corrections and proposals in and out of the database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from worker.jobs.contract import SegmentJob, SegmentResult
from worker.store.blobs import Blobs
from worker.store.tables import Correction, Proposal, now

LEARNED = ("labelled", "empty")  # statuses whose turns are learned from
MAX_PROPOSALS = 50  # of one task, the newest


def record_proposal(session: Session, job: SegmentJob, result: SegmentResult) -> None:
    """Notes what was answered to `job`; once for a task."""
    key = (result.job_id, job.project or "", job.task or "")
    if session.get(Proposal, key) is None:
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
                targets=[target.model_dump(mode="json") for target in result.targets],
            )
        )


def proposals_of(session: Session, project: str, task: str, jobs: Iterable[str]) -> list[Proposal]:
    """What was proposed in a task, oldest first, and the answers to `jobs` wherever they were shown."""
    newest = session.scalars(
        select(Proposal)
        .where(Proposal.project == project, Proposal.task == task)
        .order_by(Proposal.at.desc())
        .limit(MAX_PROPOSALS)
    )
    found = {proposal.job: proposal for proposal in newest}
    if missing := [job for job in set(jobs) if job not in found]:
        elsewhere = session.scalars(select(Proposal).where(Proposal.job.in_(missing)))
        found |= {proposal.job: proposal for proposal in elsewhere}
    return sorted(found.values(), key=lambda proposal: proposal.at)


def is_news(session: Session, annotation: str, task: str, updated_at: datetime) -> bool:
    """Whether an annotation as of `updated_at` says more than what is known of it, deletions included."""
    if session.get(Correction, _tombstone(task)) is not None:
        return False
    known = session.get(Correction, annotation)
    return known is None or (known.status != "deleted" and known.updated_at < updated_at)


def keep(session: Session, correction: Correction) -> bool:
    """Stores a correction unless a newer one or a deletion is known; says whether it did."""
    if not is_news(session, correction.annotation, correction.task, correction.updated_at):
        return False
    session.merge(correction)
    return True


def forget(session: Session, annotation: str, project: str) -> str | None:
    """Deletes what an annotation taught and remembers that it is gone. Returns its image, if nobody else
    needs that any more."""
    known = session.get(Correction, annotation)
    image = known.image if known else None
    if known is None:
        session.add(_gone(annotation, project, ""))
    else:
        known.status, known.turns, known.outcomes, known.image = "deleted", [], [], None
        known.taken_at = now()
    session.flush()
    used = session.scalar(select(func.count()).where(Correction.image == image)) if image else 1
    return None if used else image


def forget_task(session: Session, task: str, project: str) -> list[str]:
    """The same for all annotations of a task, those yet to be heard of included."""
    annotations = session.scalars(
        select(Correction.annotation).where(Correction.task == task, Correction.status != "deleted")
    ).all()
    if session.get(Correction, _tombstone(task)) is None:
        session.add(_gone(_tombstone(task), project, task))
    session.execute(delete(Proposal).where(Proposal.project == project, Proposal.task == task))
    return [image for one in annotations if (image := forget(session, one, project))]


def learned_from(session: Session, project: str, since: datetime | None = None) -> list[Correction]:
    """The corrections that teach something, in a fixed order; only those taken after `since`."""
    query = select(Correction).where(
        Correction.project == project, Correction.status.in_(LEARNED), Correction.image.is_not(None)
    )
    if since is not None:
        query = query.where(Correction.taken_at > since)
    found = session.scalars(query.order_by(Correction.annotation)).all()
    return [correction for correction in found if correction.turns]


def discard(blobs: Blobs, images: Iterable[str]) -> None:
    for image in images:
        blobs.delete(image)


def _tombstone(task: str) -> str:
    return f"task-{task}"


def _gone(annotation: str, project: str, task: str) -> Correction:
    nothing: list[Any] = []
    return Correction(
        annotation=annotation,
        project=project,
        task=task,
        status="deleted",
        updated_at=now(),
        turns=nothing,
        outcomes=nothing,
    )
