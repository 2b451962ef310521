"""The backend's end of the queue: enqueue a prompt, look up its state, wait for its answer. No torch.

A prompt is one RQ job. Its id is a hash of its content, so that the same prompt is computed once. Answers are
kept for `result_ttl_s`; a prompt that failed may be enqueued again. Jobs that warm images have a queue of
their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis.asyncio
import redis.exceptions
from pydantic import ValidationError
from redis import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rq import Queue
from rq import Retry as JobRetry
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.results import Result

from worker.jobs import names
from worker.jobs.contract import Priority, SegmentJob, SegmentResult, WarmJob
from worker.jobs.rq_internals import UniqueEnqueue, is_death_of_worker
from worker.jobs.status import WorkerStatus, live_workers
from worker.settings import Settings

# In the order in which workers serve them. Warming comes before batch jobs, because it has to end before
# the prompt is typed.
QUEUE_NAMES: dict[Priority | Literal["warm"], str] = {
    "interactive": names.INTERACTIVE_QUEUE,
    "warm": names.WARM_QUEUE,
    "batch": names.BATCH_QUEUE,
}
# A job is started at most three times: what kills three workers in a row is not run a fourth time.
RETRIES = 2
WAITING_TTL_S = 24 * 3600
# A warm job is dropped after this time in the queue, and done again no sooner: by then the prompt has come,
# or its author has moved on.
WARM_TTL_S = 60
MAX_WAITERS = 1000  # connections that wait for an answer at the same time

_DIED = f"The worker died while it worked on this, {RETRIES + 1} times in a row; it is not tried again."
_MISMATCH = "The backend and the worker are of different releases; update both."


class QueueUnavailable(Exception):
    """Redis cannot be used; the message says which one and why."""


@dataclass(frozen=True)
class JobState:
    """The state of a prompt.

    Attributes:
        status: `unknown` means never enqueued, or so long ago that the answer has expired.
        ahead: How many jobs wait in front of a queued one.
        result: The answer of a finished job.
        reason: Why a job failed, in one sentence.
    """

    status: Literal["queued", "running", "finished", "failed", "unknown"]
    ahead: int | None = None
    result: SegmentResult | None = None
    reason: str | None = None


@dataclass(frozen=True)
class QueueDepth:
    """Numbers of jobs: waiting in each queue, running, and running out of the interactive queue."""

    interactive: int
    warm: int
    batch: int
    running: int
    running_interactive: int = 0


def connect(url: str) -> Redis:
    """Connect for short commands: each gives up after about two seconds when Redis does not answer."""
    return Redis.from_url(
        url, socket_connect_timeout=1, socket_timeout=2, retry=Retry(ConstantBackoff(0.1), 1)
    )


def connect_blocking(url: str) -> Redis:
    """Connect for commands that wait on the server: redis-py's own limit of 5 s is off."""
    return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=5, health_check_interval=30)


class SegmentQueue:
    """Prompts in, answers out. All methods are quick and synchronous, except `wait`, which is for asyncio.

    Every method raises QueueUnavailable when Redis cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._result_ttl_s = settings.result_ttl_s
        self._connection = connect(settings.redis_url)
        self._waiting = redis.asyncio.Redis.from_url(
            settings.redis_url,
            socket_timeout=None,
            socket_connect_timeout=1,
            retry=AsyncRetry(ConstantBackoff(0.1), 1),
            max_connections=MAX_WAITERS,
        )
        self._queues = {
            kind: Queue(name, connection=self._connection, serializer="json")
            for kind, name in QUEUE_NAMES.items()
        }
        self._enqueue_unique = UniqueEnqueue(self._connection, self._queues.values(), self._queues["batch"])

    def enqueue(self, job: SegmentJob) -> None:
        """Enqueue a prompt, unless the same one is waiting, running or answered already.

        A prompt that waits in the batch queue and is now enqueued as interactive moves to that queue.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        retry = JobRetry(max=RETRIES)
        self._enqueue(
            names.SEGMENT, job, self._queues[job.priority], WAITING_TTL_S, self._result_ttl_s, retry
        )

    def enqueue_warm(self, job: WarmJob) -> None:
        """Enqueue the preparation of an image, unless that was done in the last WARM_TTL_S seconds.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        self._enqueue(names.WARM, job, self._queues["warm"], WARM_TTL_S, WARM_TTL_S)

    def _enqueue(
        self,
        function: str,
        message: SegmentJob | WarmJob,
        queue: Queue,
        waiting_ttl_s: int,
        result_ttl_s: int,
        retry: JobRetry | None = None,
    ) -> None:
        job = queue.create_job(
            function,
            args=(message.model_dump(mode="json"),),
            job_id=message.job_id,
            ttl=waiting_ttl_s,
            result_ttl=result_ttl_s,
            failure_ttl=result_ttl_s,
            retry=retry,
            description=f"{function} (project {message.project}, task {message.task})",
        )
        with self._available():
            self._enqueue_unique(job, queue, waiting_ttl_s)

    def state(self, job_id: str) -> JobState:
        """Look up the state of a prompt by the id of its job.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        interactive, batch = self._queues["interactive"].key, self._queues["batch"].key
        with self._available(), self._connection.pipeline() as pipe:
            pipe.hget(Job.key_for(job_id), "status")
            pipe.xrevrange(Result.get_key(job_id), count=1)
            pipe.lpos(interactive, job_id)
            pipe.llen(interactive)
            pipe.lpos(batch, job_id)
            status, entries, in_interactive, interactive_count, in_batch = pipe.execute()
        if entries:
            return self._outcome(job_id, *entries[0])
        match status:
            case b"queued" if in_interactive is not None:
                return JobState("queued", ahead=in_interactive)
            case b"queued" if in_batch is not None:
                return JobState("queued", ahead=interactive_count + in_batch)
            case b"queued":  # taken by a worker that is about to start it
                return JobState("queued", ahead=0)
            case b"started":
                return JobState("running")
            case _:
                return JobState("unknown")

    async def wait(self, job_id: str, timeout_s: float) -> JobState:
        """Wait for the answer of a job, without a thread.

        Args:
            job_id: The id of the job.
            timeout_s: How long to wait at most.

        Returns:
            The job's state: finished or failed, or any other after `timeout_s`.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        if timeout_s > 0:
            block_ms = max(1, round(timeout_s * 1000))
            with self._available():
                # The server ends the wait by itself; the outer limit is for a server that stops responding.
                async with asyncio.timeout(timeout_s + 5):
                    streams: Any = await self._waiting.xread({Result.get_key(job_id): "0-0"}, block=block_ms)
            for _, entries in streams:
                return self._outcome(job_id, *entries[-1])
        return await asyncio.to_thread(self.state, job_id)

    def depth(self) -> QueueDepth:
        """Count the jobs in each queue.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        with self._available(), self._connection.pipeline() as pipe:
            for queue in self._queues.values():
                pipe.llen(queue.key)
            for queue in self._queues.values():
                pipe.zcard(StartedJobRegistry(queue=queue).key)
            interactive, warm, batch, *running = cast(list[int], pipe.execute())
        return QueueDepth(interactive, warm, batch, sum(running), running[0])

    def worker_status(self) -> tuple[WorkerStatus, ...]:
        """The status of every live worker, ready ones first.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        with self._available():
            return live_workers(self._connection)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._waiting.aclose()
        self._connection.close()

    def _outcome(self, job_id: str, entry_id: bytes, payload: dict[bytes, bytes]) -> JobState:
        result = Result.restore(job_id, entry_id.decode(), payload, self._connection, serializer="json")
        if result.type is not Result.Type.SUCCESSFUL:
            return JobState("failed", reason=_reason(result.exc_string or ""))
        try:
            return JobState("finished", result=SegmentResult.model_validate(result.return_value))
        except ValidationError:
            return JobState("failed", reason=_MISMATCH)

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (
            redis.exceptions.ConnectionError,
            redis.exceptions.TimeoutError,
            redis.exceptions.OutOfMemoryError,
            TimeoutError,
        ) as error:
            raise QueueUnavailable(f"The queue's Redis (REDIS_URL) cannot be used: {error}") from error


def _reason(recorded: str) -> str:
    """The sentence that a worker recorded, or ours where RQ recorded the worker's death."""
    return _DIED if is_death_of_worker(recorded) else recorded
