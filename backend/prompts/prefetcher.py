"""Asking a worker to look at an image ahead of a prompt. Nobody waits for it, and nobody hears of it."""

from __future__ import annotations

import asyncio
import logging

from backend.prompts.model_client import Asking, Unanswered
from worker.jobs.contract import WarmJob
from worker.jobs.queue import QueueUnavailable

log = logging.getLogger(__name__)


class Warming:
    """Sends warm jobs in the background of the running event loop."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._runs: set[asyncio.Task[None]] = set()

    def begin(self, job: WarmJob) -> None:
        """Returns at once. What goes wrong stays in the log."""
        run = asyncio.create_task(self._run(job))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def aclose(self) -> None:
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _run(self, job: WarmJob) -> None:
        try:
            await self._asking.warm(job)
        except (Unanswered, QueueUnavailable) as error:
            log.info("task %s is not warmed: %s", job.task, error)
