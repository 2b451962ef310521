"""Sends jobs to the workers, and explains in one sentence why there is no result yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeVar

from worker.jobs.contract import SegmentJob, SegmentResult, WarmJob
from worker.jobs.queue import JobState, QueueUnavailable, SegmentQueue
from worker.jobs.status import WorkerStatus
from worker.store.registry import Registry

REDIS_TIMEOUT_S = 1.8
# A worker that is being restarted announces itself within this time.
NO_WORKER_GRACE_S = 2.0
WORKER_POLL_S = 0.25
# How often a waiting request checks that a worker is still there.
WORKER_CHECK_S = 5.0

AGAIN = "ask the same again in a moment, its answer is kept"
NO_WORKER = "No worker is running, so nothing can be segmented; start one with `python -m worker`."
LOADING = "The model is still loading; ask again in a moment."
LOST = "The queue has lost this prompt; ask again."


AnyJob = TypeVar("AnyJob", SegmentJob, WarmJob)


class NotReady(Exception):
    """There is no result yet; the message is a sentence for the annotator."""


class JobFailed(NotReady):
    """There will be no result; the message says why."""


class ModelClient:
    """The serving model, reached through the queue. Every method raises QueueUnavailable without Redis."""

    def __init__(self, queue: SegmentQueue, registry: Registry) -> None:
        self._queue = queue
        self._registry = registry

    async def workers(self) -> tuple[WorkerStatus, ...]:
        """Return the living workers; those with a loaded model come first.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                return await asyncio.to_thread(self._queue.worker_status)
        except TimeoutError as error:
            raise QueueUnavailable("The queue's Redis (REDIS_URL) cannot be used: it is silent.") from error

    async def base_version(self, wait_s: float) -> str:
        """Return the base version that the workers have loaded.

        Args:
            wait_s: How long to wait for a worker that is still loading.

        Raises:
            NotReady: No worker is ready within `wait_s`.
        """
        return str((await self._ready_worker(wait_s)).model_version)

    async def follows_up(self, wait_s: float) -> bool:
        """Return whether the model was trained on turns that refer back to earlier ones.

        Args:
            wait_s: How long to wait for a worker that is still loading.

        Raises:
            NotReady: No worker is ready within `wait_s`.
        """
        return (await self._ready_worker(wait_s)).follows_up

    async def _ready_worker(self, wait_s: float) -> WorkerStatus:
        start = time.monotonic()
        while True:
            workers = await self.workers()
            if workers and workers[0].model_version is not None:
                return workers[0]
            waited_s = time.monotonic() - start
            if not workers and waited_s >= min(wait_s, NO_WORKER_GRACE_S):
                raise NotReady(NO_WORKER)
            if waited_s >= wait_s:
                raise NotReady(LOADING)
            await asyncio.sleep(WORKER_POLL_S)

    async def submit(self, jobs: Sequence[SegmentJob], wait_s: float) -> list[SegmentJob]:
        """Queue `jobs`, each for the version that serves its project.

        Args:
            jobs: The jobs; their `model_version` is not used.
            wait_s: How long to wait for a worker that is still loading.

        Returns:
            The jobs as they were queued, with their `model_version` set.

        Raises:
            NotReady: No worker is ready within `wait_s`; nothing is queued then.
        """
        base = await self.base_version(wait_s)
        versioned = [self._with_version(job, base) for job in jobs]
        await asyncio.to_thread(self._enqueue, versioned)
        return versioned

    async def ask(self, job: SegmentJob, wait_s: float) -> SegmentResult:
        """Submit `job` and wait for its result.

        After NotReady the job stays in the queue, and asking again finds its result.

        Raises:
            NotReady: There is no result after `wait_s`, or no worker is left.
            JobFailed: The job has failed.
        """
        deadline = time.monotonic() + wait_s
        (job,) = await self.submit([job], wait_s)
        while True:
            left_s = deadline - time.monotonic()
            state = await self._queue.wait(job.job_id, min(left_s, WORKER_CHECK_S))
            if state.status not in ("queued", "running") or left_s <= WORKER_CHECK_S:
                return result_of(state)
            if not await self.workers():
                raise NotReady(NO_WORKER)

    async def collect(self, job: SegmentJob, wait_s: float) -> SegmentResult:
        """Wait for the result of a job that `submit` returned.

        Raises:
            NotReady: There is no result after `wait_s`.
            JobFailed: The job has failed.
        """
        return result_of(await self._queue.wait(job.job_id, wait_s))

    async def warm(self, job: WarmJob) -> None:
        """Queue `job` for the version that serves its project.

        Raises:
            NotReady: No worker is ready now.
        """
        await asyncio.to_thread(self._queue.enqueue_warm, self._with_version(job, await self.base_version(0)))

    def _with_version(self, job: AnyJob, base: str) -> AnyJob:
        return job.model_copy(update={"model_version": self._registry.serving(job.project, base)})

    def _enqueue(self, jobs: Sequence[SegmentJob]) -> None:
        for job in jobs:
            self._queue.enqueue(job)


def result_of(state: JobState) -> SegmentResult:
    """Return the result in `state`.

    Raises:
        NotReady: There is none yet.
        JobFailed: There will be none.
    """
    match state.status:
        case "finished" if state.result is not None:
            return state.result
        case "failed":
            raise JobFailed(state.reason or "The worker failed without giving a reason.")
        case "queued" if state.ahead:
            others = "1 other" if state.ahead == 1 else f"{state.ahead} others"
            raise NotReady(f"Waiting in line behind {others}; {AGAIN}.")
        case "queued":
            raise NotReady(f"Next in line; {AGAIN}.")
        case "running":
            raise NotReady(f"The model is at work on this; {AGAIN}.")
        case _:
            raise NotReady(LOST)
