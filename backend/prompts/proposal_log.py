"""Records every answer as a proposal: Label Studio keeps nothing of what an annotator rejected."""

from __future__ import annotations

import logging
from collections.abc import Collection

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from backend.background import BackgroundTasks
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.store.corrections import record_proposal
from worker.store.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)


class ProposalLog:
    """Writes proposals in the background of the running event loop, so that no prompt waits for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tasks = BackgroundTasks()

    def record(self, job: SegmentJob, result: SegmentResult, hidden: Collection[int] = ()) -> None:
        """Record the answer to `job` and return at once.

        A job without project or task is ignored, and so is an answer to words that the model does not know:
        what it says about them must not be learned from.

        Args:
            job: The job.
            result: Its answer.
            hidden: The indices of the targets that are not shown.
        """
        if job.project is not None and job.task is not None and not result.unknown:
            self._tasks.start(self._record(job, result, hidden))

    async def aclose(self) -> None:
        """Wait until everything is written."""
        await self._tasks.aclose(cancel=False)

    async def _record(self, job: SegmentJob, result: SegmentResult, hidden: Collection[int]) -> None:
        try:
            await self._database.run(self._insert, job, result, hidden)
        except IntegrityError:  # another backend recorded the same answer at the same time
            log.debug("task %s: the proposal is recorded already", job.task)
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            log.warning("task %s: the proposal is not recorded: %s", job.task, error)

    def _insert(self, job: SegmentJob, result: SegmentResult, hidden: Collection[int]) -> None:
        with self._database.session() as session:
            record_proposal(session, job, result, hidden)
