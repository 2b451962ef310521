"""Asks a worker to encode an image before the first prompt about it is typed."""

from __future__ import annotations

import logging

from backend.background import BackgroundTasks
from backend.prompts.model_client import ModelClient, NotReady
from worker.jobs.contract import WarmJob
from worker.jobs.queue import QueueUnavailable

log = logging.getLogger(__name__)


class ImageWarmer:
    """Queues warm jobs in the background of the running event loop."""

    def __init__(self, model: ModelClient) -> None:
        self._model = model
        self._tasks = BackgroundTasks()

    def start(self, job: WarmJob) -> None:
        """Queue `job` and return at once; errors are only logged."""
        self._tasks.start(self._queue(job))

    async def aclose(self) -> None:
        """Cancel what is not queued yet."""
        await self._tasks.aclose(cancel=True)

    async def _queue(self, job: WarmJob) -> None:
        try:
            await self._model.warm(job)
        except (NotReady, QueueUnavailable) as error:
            log.info("task %s is not warmed: %s", job.task, error)
