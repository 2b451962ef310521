"""The backend's end of the queue: ask, look up, wait. It needs no torch.

A question is one RQ job named by its content, so that asking twice computes once. Answers are kept for
`result_ttl_s`; a question that failed may be asked again. Images to be warmed have a queue of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
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
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.utils import now

from worker.jobs import names
from worker.jobs.contract import Priority, SegmentJob, SegmentResult, WarmJob
from worker.jobs.status import WorkerStatus, published
from worker.settings import Settings

# In the order in which workers serve them. Warming comes before batch jobs, because after a thousand of those
# it would be too late to be of use.
QUEUE_NAMES: dict[Priority | Literal["warm"], str] = {
    "interactive": names.INTERACTIVE_QUEUE,
    "warm": names.WARM_QUEUE,
    "batch": names.BATCH_QUEUE,
}
# A job is begun at most three times: what kills three workers in a row is not run a fourth time.
RETRIES = 2
WAITING_TTL_S = 24 * 3600
# After this time the prompt has come, or its author has gone on; and so long an image counts as warmed.
WARM_TTL_S = 60
MAX_WAITERS = 1000

_DIED = f"The worker died while it worked on this, {RETRIES + 1} times in a row; it is not tried again."
_MISMATCH = "The backend and the worker are of different releases; update both."

# Puts a job into its queue unless it is known. A failure is forgotten first; a job that waits in the batch
# queue and is now asked for in another is moved.
# KEYS: the job, its answers, its queue, the batch queue, RQ's set of queues, the failures of each queue.
# ARGV: the job's id, its queue's name, how many seconds it may wait, its fields.
_PUT = """
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'failed' or status == 'stopped' or status == 'canceled' then
  redis.call('DEL', KEYS[1], KEYS[2])
  for nth = 6, #KEYS do redis.call('ZREM', KEYS[nth], ARGV[1]) end
  status = false
end
if not status then
  redis.call('HSET', KEYS[1], unpack(ARGV, 4))
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  redis.call('RPUSH', KEYS[3], ARGV[1])
  redis.call('SADD', KEYS[5], KEYS[3])
elseif KEYS[4] ~= KEYS[3] and redis.call('LREM', KEYS[4], 1, ARGV[1]) == 1 then
  redis.call('RPUSH', KEYS[3], ARGV[1])
  redis.call('HSET', KEYS[1], 'origin', ARGV[2])
end
"""


class QueueUnavailable(Exception):
    """Redis cannot be used; the message says which one and why."""


@dataclass(frozen=True)
class JobState:
    """Where a question stands. `ahead` counts the waiting jobs before a queued one; `reason` says why it
    failed; `unknown` means never asked, or asked so long ago that the answer is gone."""

    status: Literal["queued", "running", "finished", "failed", "unknown"]
    ahead: int | None = None
    result: SegmentResult | None = None
    reason: str | None = None


@dataclass(frozen=True)
class QueueDepth:
    """Jobs waiting in each queue, and jobs being computed; `running_interactive` are among those."""

    interactive: int
    warm: int
    batch: int
    running: int
    running_interactive: int = 0


def connect(url: str) -> Redis:
    """A client for short commands: it gives up within about two seconds when Redis does not answer."""
    return Redis.from_url(
        url, socket_connect_timeout=1, socket_timeout=2, retry=Retry(ConstantBackoff(0.1), 1)
    )


def connect_blocking(url: str) -> Redis:
    """A client for commands that wait on the server, without the 5 s limit redis-py sets by itself."""
    return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=5, health_check_interval=30)


class SegmentQueue:
    """Questions in, answers out. The methods are quick and synchronous; `wait` and `ask` are for asyncio.

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
            line: Queue(name, connection=self._connection, serializer="json")
            for line, name in QUEUE_NAMES.items()
        }
        self._put_script = self._connection.register_script(_PUT)

    def enqueue(self, job: SegmentJob) -> None:
        """Asks, unless the same question is waiting, running or answered already. An interactive request for
        a question that waits as batch moves it to the interactive queue."""
        retry = JobRetry(max=RETRIES)
        self._put(names.SEGMENT, job, self._queues[job.priority], WAITING_TTL_S, self._result_ttl_s, retry)

    def enqueue_warm(self, job: WarmJob) -> None:
        """Has a worker look at an image ahead of a prompt, unless that was asked a moment ago."""
        self._put(names.WARM, job, self._queues["warm"], WARM_TTL_S, WARM_TTL_S)

    def _put(
        self,
        function: str,
        message: SegmentJob | WarmJob,
        queue: Queue,
        wait_s: int,
        keep_s: int,
        retry: JobRetry | None = None,
    ) -> None:
        """RQ's unique `enqueue_call` and what `_PUT` does beside it, in one command instead of four."""
        job = queue.create_job(
            function,
            args=(message.model_dump(mode="json"),),
            job_id=message.job_id,
            ttl=wait_s,
            result_ttl=keep_s,
            failure_ttl=keep_s,
            retry=retry,
            description=f"{function} (project {message.project}, task {message.task})",
        )
        job.origin, job.enqueued_at = queue.name, now()
        lists = [queue.key, self._queues["batch"].key, Queue.redis_queues_keys]
        failures = [FailedJobRegistry(queue=each).key for each in self._queues.values()]
        fields = chain.from_iterable(job.to_dict().items())
        with self._available():
            self._put_script(
                keys=[job.key, Result.get_key(job.id), *lists, *failures],
                args=[job.id, queue.name, wait_s, *fields],
            )

    def state(self, job_id: str) -> JobState:
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
            case b"queued":  # taken out by a worker that is about to begin
                return JobState("queued", ahead=0)
            case b"started":
                return JobState("running")
            case _:
                return JobState("unknown")

    async def wait(self, job_id: str, timeout_s: float) -> JobState:
        """Waits for the answer without a thread; after `timeout_s` returns the state the job is in then."""
        if timeout_s > 0:
            block_ms = max(1, round(timeout_s * 1000))
            with self._available():
                # The server ends the wait by itself; the outer limit is for a server that vanished.
                async with asyncio.timeout(timeout_s + 5):
                    streams: Any = await self._waiting.xread({Result.get_key(job_id): "0-0"}, block=block_ms)
            for _, entries in streams:
                return self._outcome(job_id, *entries[-1])
        return await asyncio.to_thread(self.state, job_id)

    async def ask(self, job: SegmentJob, timeout_s: float) -> JobState:
        """`enqueue`, then `wait`."""
        await asyncio.to_thread(self.enqueue, job)
        return await self.wait(job.job_id, timeout_s)

    def depth(self) -> QueueDepth:
        with self._available(), self._connection.pipeline() as pipe:
            for queue in self._queues.values():
                pipe.llen(queue.key)
            for queue in self._queues.values():
                pipe.zcard(StartedJobRegistry(queue=queue).key)
            interactive, warm, batch, *running = cast(list[int], pipe.execute())
        return QueueDepth(interactive, warm, batch, sum(running), running[0])

    def worker_status(self) -> tuple[WorkerStatus, ...]:
        """The living workers, those that are ready first; empty when none runs."""
        with self._available():
            return published(self._connection)

    async def aclose(self) -> None:
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
    """A worker records one sentence; RQ's own words stand where no worker lived to do so."""
    if "AbandonedJobError" in recorded or "intermediate queue" in recorded:
        return _DIED
    return recorded
