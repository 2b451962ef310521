"""Asking the workers, and saying in plain words why there is no answer yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeVar

from worker.jobs.contract import SegmentJob, SegmentResult, WarmJob
from worker.jobs.queue import JobState, QueueUnavailable, SegmentQueue
from worker.jobs.status import WorkerStatus
from worker.store.registry import Registry

REDIS_LIMIT_S = 1.8
# A worker that is being restarted announces itself within this time.
NO_WORKER_PATIENCE_S = 2.0
LOOK_EVERY_S = 0.25
# How often a waiting question makes sure that somebody is there to answer it.
WATCH_EVERY_S = 5.0

AGAIN = "press Enter again to see the result"
NO_WORKER = "No worker is running, so nothing can be segmented; start one with `python -m worker`."
LOADING = "The model is still loading; press Enter again in a moment."
LOST = "The queue has lost this question; press Enter again to ask it anew."


Job = TypeVar("Job", SegmentJob, WarmJob)


class Unanswered(Exception):
    """No answer for now; the message is a sentence for the annotator."""


class Failed(Unanswered):
    """No answer at all; the message says why."""


class Asking:
    """Questions to the version that is serving. All methods raise QueueUnavailable when Redis is out."""

    def __init__(self, queue: SegmentQueue, registry: Registry) -> None:
        self._queue = queue
        self._registry = registry

    async def workers(self) -> tuple[WorkerStatus, ...]:
        """The living workers, those that are ready first."""
        try:
            async with asyncio.timeout(REDIS_LIMIT_S):
                return await asyncio.to_thread(self._queue.worker_status)
        except TimeoutError as error:
            raise QueueUnavailable("The queue's Redis (REDIS_URL) cannot be used: it is silent.") from error

    async def version(self, wait_s: float) -> str:
        """The base version that workers serve; raises Unanswered when none is ready within `wait_s`."""
        start = time.monotonic()
        while True:
            workers = await self.workers()
            if workers and workers[0].model_version is not None:
                return workers[0].model_version
            waited = time.monotonic() - start
            if not workers and waited >= min(wait_s, NO_WORKER_PATIENCE_S):
                raise Unanswered(NO_WORKER)
            if waited >= wait_s:
                raise Unanswered(LOADING)
            await asyncio.sleep(LOOK_EVERY_S)

    async def submit(self, jobs: Sequence[SegmentJob], wait_s: float) -> list[SegmentJob]:
        """Queues `jobs` for the versions that serve their projects and returns them with its name."""
        base = await self.version(wait_s)
        named = [self._named(job, base) for job in jobs]
        await asyncio.to_thread(self._enqueue, named)
        return named

    async def ask(self, job: SegmentJob, wait_s: float) -> SegmentResult:
        """Submits `job` and waits for its answer. Raises Unanswered after `wait_s`, or as soon as no worker
        is left; the job stays in the queue then, and the same question finds its answer."""
        deadline = time.monotonic() + wait_s
        (job,) = await self.submit([job], wait_s)
        while True:
            left_s = deadline - time.monotonic()
            state = await self._queue.wait(job.job_id, min(left_s, WATCH_EVERY_S))
            if state.status not in ("queued", "running") or left_s <= WATCH_EVERY_S:
                return answered(state)
            if not await self.workers():
                raise Unanswered(NO_WORKER)

    async def collect(self, job: SegmentJob, wait_s: float) -> SegmentResult:
        """The answer to a submitted job; raises Unanswered after `wait_s`."""
        return answered(await self._queue.wait(job.job_id, wait_s))

    async def warm(self, job: WarmJob) -> None:
        """Queues `job` for the version that is serving. Raises Unanswered when no worker is ready now."""
        await asyncio.to_thread(self._queue.enqueue_warm, self._named(job, await self.version(0)))

    def _named(self, job: Job, base: str) -> Job:
        return job.model_copy(update={"model_version": self._registry.serving(job.project, base)})

    def _enqueue(self, jobs: Sequence[SegmentJob]) -> None:
        for job in jobs:
            self._queue.enqueue(job)


def answered(state: JobState) -> SegmentResult:
    """The result in `state`; raises Unanswered, or Failed, when there is none."""
    match state.status:
        case "finished" if state.result is not None:
            return state.result
        case "failed":
            raise Failed(state.reason or "The worker failed without giving a reason.")
        case "queued" if state.ahead:
            others = "1 other" if state.ahead == 1 else f"{state.ahead} others"
            raise Unanswered(f"Waiting in line behind {others}; {AGAIN}.")
        case "queued":
            raise Unanswered(f"Next in line; {AGAIN}.")
        case "running":
            raise Unanswered(f"The model is at work on this; {AGAIN}.")
        case _:
            raise Unanswered(LOST)
