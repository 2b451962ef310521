"""Our record of what was proposed: Label Studio keeps none of what an annotator rejected."""

from __future__ import annotations

import asyncio
import logging

from worker.jobs.contract import SegmentJob, SegmentResult
from worker.store.corrections import record_proposal
from worker.store.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)


class Ledger:
    """Notes answers in the background of the running event loop; no prompt waits for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs: set[asyncio.Task[None]] = set()

    def note(self, job: SegmentJob, result: SegmentResult) -> None:
        if job.project is None or job.task is None:
            return
        run = asyncio.create_task(self._run(job, result))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _run(self, job: SegmentJob, result: SegmentResult) -> None:
        try:
            await asyncio.to_thread(self._record, job, result)
        except DatabaseUnavailable as error:
            log.warning("task %s: what was proposed is not recorded: %s", job.task, error)

    def _record(self, job: SegmentJob, result: SegmentResult) -> None:
        with self._database.session() as session:
            record_proposal(session, job, result)
