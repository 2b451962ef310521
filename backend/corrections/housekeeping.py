"""Deletes rows and images that nothing needs any more, so that neither grows without bound."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from worker.store import Blobs, Database
from worker.store.corrections import MAX_PROPOSALS, used_images
from worker.store.tables import Event, Proposal, now

# Label Studio repeats an event within seconds, if at all; `body_hash` recognises it.
DONE_KEPT = timedelta(days=7)
FAILED_KEPT = timedelta(days=90)  # for people to look at
# An image is stored before its correction is.
IMAGE_GRACE = timedelta(hours=1)


def delete_old_rows(session: Session) -> tuple[int, int]:
    """Delete old events, and the proposals of each task that are not among its newest.

    Returns:
        How many events and how many proposals were deleted.
    """
    num_events = 0
    for state, kept in (("done", DONE_KEPT), ("failed", FAILED_KEPT)):
        old = delete(Event).where(Event.state == state, Event.received_at < now() - kept)
        num_events += session.execute(old).rowcount  # type: ignore[attr-defined]  # a CursorResult
    key = (Proposal.job, Proposal.project, Proposal.task)
    age = func.row_number().over(partition_by=(Proposal.project, Proposal.task), order_by=Proposal.at.desc())
    ranked = select(*key, age.label("age")).subquery()
    superseded = select(ranked.c.job, ranked.c.project, ranked.c.task).where(ranked.c.age > MAX_PROPOSALS)
    deleted = session.execute(delete(Proposal).where(tuple_(*key).in_(superseded)))
    return num_events, deleted.rowcount  # type: ignore[attr-defined]


def delete_unowned_images(database: Database, blobs: Blobs) -> int:
    """Delete the images that no correction needs; returns how many.

    Images younger than IMAGE_GRACE stay.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    # The images are listed first: one that a correction has by then is stored for more than the grace period.
    candidates = blobs.names(before=now() - IMAGE_GRACE)
    with database.read() as session:
        used = used_images(session)
    unowned = [name for name in candidates if name not in used]
    for name in unowned:
        blobs.delete(name)
    return len(unowned)
