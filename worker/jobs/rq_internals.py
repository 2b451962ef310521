"""Every private or fragile part of RQ that this project touches, in one place; written for rq 3.0.

An update of RQ may change these without notice. tests/process/test_rq_internals.py fails when it does.

Private names:
    Queue._fetch_dequeued_job: loads a job that was taken from its list. `PriorityQueue.dequeue_any` takes
        jobs in another way than RQ and needs the rest of RQ's own `dequeue_any`.
    BaseWorker._install_signal_handlers: `work` calls it, but a worker must stop on request from the moment
        its model is loaded.
    BaseWorker._shutdown_requested_date: tells a stop on request from a worker that ended by itself.

Data written in RQ's format:
    Job hash, queue list and set of queues (`UniqueEnqueue`): RQ's unique enqueueing takes four commands,
        raises for a known job, keeps failures and moves nothing between queues.
    Queue list and intermediate list (`QueueInternals.move_unstarted`): RQ takes one job at a time.
    First-seen marks and their meaning (`_IntermediateQueue`), maintenance lock
        (`QueueInternals.acquire_maintenance_lock`): RQ waits a minute and 15 minutes to recover a job.
    Executions and intermediate list (`WorkerInternals.start_executions`): RQ starts a job in two steps, which
        leaves a moment in which several jobs would be half started.
    Result, finished registry and job hash (`WorkerInternals.record_success`): RQ's success path takes four
        commands, and sends the job's arguments (with an image in them at times) once more.

Overridden or called without being documented: `SimpleWorker.execute_job`, `heartbeat`, `get_heartbeat_ttl`,
`dequeue_timeout`, `executions`, `last_heartbeat`, `maintain_heartbeats`, `handle_execution_ended`,
`handle_job_failure`, `cleanup_execution`, `Worker.main_work_horse`.

Texts: what RQ records for a job whose worker died (`is_death_of_worker`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.results import Result
from rq.utils import as_text, now, utcformat
from rq.worker import WorkerStatus

# Puts a job into its queue unless it is known. A failure is forgotten first. A job that waits in the batch
# queue and is now enqueued in another one is moved.
# KEYS: the job, its results, its queue, the batch queue, RQ's set of queues, each queue's failed registry.
# ARGV: the job's id, its queue's name, how many seconds it may wait, its fields.
_ENQUEUE_UNIQUE = """
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

# KEYS: the queue, its intermediate list.
# ARGV: how many at most, the retries of a job that was never started, the prefix of job keys.
_MOVE_UNSTARTED = """
local moved = {}
for nth = 1, tonumber(ARGV[1]) do
  local id = redis.call('LINDEX', KEYS[1], 0)
  if not id or redis.call('HGET', ARGV[3] .. id, 'retries_left') ~= ARGV[2] then break end
  redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
  moved[nth] = id
end
return moved
"""


def is_death_of_worker(recorded: str) -> bool:
    """Whether RQ recorded `recorded` as the error of a job because its worker died."""
    return "AbandonedJobError" in recorded or "intermediate queue" in recorded


class UniqueEnqueue:
    """Enqueues each job id once, in one command: what RQ's unique `enqueue_call` does, and more.

    A job that failed is enqueued again. A job that waits in `batch_queue` is moved when it is enqueued in
    another queue.
    """

    def __init__(self, connection: Redis, queues: Iterable[Queue], batch_queue: Queue) -> None:
        self._script = connection.register_script(_ENQUEUE_UNIQUE)
        self._failed = [FailedJobRegistry(queue=queue).key for queue in queues]
        self._batch_key = batch_queue.key

    def __call__(self, job: Job, queue: Queue, waiting_ttl_s: int) -> None:
        """Put `job`, made by `queue.create_job`, into `queue`; it expires there after `waiting_ttl_s`."""
        job.origin, job.enqueued_at = queue.name, now()
        lists = [queue.key, self._batch_key, Queue.redis_queues_keys]
        self._script(
            keys=[job.key, Result.get_key(job.id), *lists, *self._failed],
            args=[job.id, queue.name, waiting_ttl_s, *chain.from_iterable(job.to_dict().items())],
        )


class QueueInternals(Queue):
    """A queue that recovers the jobs of dead workers within seconds."""

    # Taking a job and starting it are a few commands apart; RQ waits a minute before it calls one stuck.
    stuck_after_s = 5
    # RQ's lock stays for 15 minutes when its holder dies, and nothing is recovered meanwhile.
    maintenance_lock_s = 10

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        """The list of jobs that were taken and not started yet."""
        return _IntermediateQueue(self.key, self.connection, self.stuck_after_s)

    def acquire_maintenance_lock(self) -> bool:
        """Take the right to recover jobs for `maintenance_lock_s`; False when another worker has it."""
        return bool(self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=self.maintenance_lock_s))

    @classmethod
    def fetch_dequeued_job(cls, connection: Redis, queue_key: str, job_id: str, **options: Any) -> Any:
        """Load a job that was taken from its list: (job, queue), or None when it has expired."""
        return cls._fetch_dequeued_job(connection, queue_key, job_id, **options)

    def move_unstarted(self, count: int, retries: int) -> list[str]:
        """Move the next jobs, at most `count`, to the intermediate list and return their ids.

        It ends at the first job that has not all its `retries` left, because that one was started before.
        """
        keys = [self.key, self.intermediate_queue.key]
        args = [count, retries, Job.redis_job_namespace_prefix]
        return [as_text(job_id) for job_id in self.connection.eval(_MOVE_UNSTARTED, len(keys), *keys, *args)]


class _IntermediateQueue(IntermediateQueue):
    def __init__(self, queue_key: str, connection: Redis, stuck_after_s: int) -> None:
        super().__init__(queue_key, connection)
        self._stuck_after_s = stuck_after_s

    def set_first_seen(self, job_id: str) -> bool:
        # RQ keeps the mark for a day. Here a later run may have the same id, and an old mark would make it
        # look stuck.
        key = self.get_first_seen_key(job_id)
        return bool(self.connection.set(key, now().timestamp(), nx=True, ex=4 * self._stuck_after_s))

    def should_be_cleaned_up(self, job_id: str) -> bool:
        first_seen = self.get_first_seen(job_id)
        return first_seen is not None and (now() - first_seen).total_seconds() > self._stuck_after_s


class WorkerInternals(SimpleWorker):
    """A worker whose jobs can be started several at a time and finished in one command each.

    Jobs must have no dependents, callbacks, repeats, webhooks or rate limits.
    """

    @property
    def stopped_on_request(self) -> bool:
        """Whether a signal asked this worker to stop."""
        return self._shutdown_requested_date is not None

    def install_signal_handlers(self) -> None:
        """Stop on SIGINT and SIGTERM from here on; between jobs they raise rq.exceptions.StopRequested."""
        self._install_signal_handlers()

    def start_executions(self, jobs: Sequence[Job], execution_ttl_s: int) -> list[Execution]:
        """Move `jobs` from the intermediate list to the running ones, all or none of them.

        Args:
            jobs: Jobs that this worker has taken.
            execution_ttl_s: Without a heartbeat for this long a job counts as abandoned.

        Returns:
            The execution of each job, in order.
        """
        with self.connection.pipeline() as pipe:
            executions = [Execution.create(job, execution_ttl_s, pipe, self.name) for job in jobs]
            for job in jobs:
                job.prepare_for_execution(self.name, pipeline=pipe)
                pipe.persist(job.key)
                queue = Queue(job.origin, connection=self.connection)
                pipe.lrem(queue.intermediate_queue.key, 1, job.id)
            self.set_state(WorkerStatus.BUSY, pipeline=pipe)
            pipe.execute()
        self.executions.update((execution.id, execution) for execution in executions)
        return executions

    def record_success(self, job: Job, execution: Execution, return_value: Any) -> None:
        """Store the result of `job` and end its execution, in one command and without its arguments."""
        job.ended_at = now()
        result_ttl_s = job.get_result_ttl(self.default_result_ttl)
        with self.connection.pipeline() as pipe:
            self.increment_successful_job_count(pipeline=pipe)
            self.increment_total_working_time(job.ended_at - job.started_at, pipe)
            Result.create(
                job,
                Result.Type.SUCCESSFUL,
                result_ttl_s,
                return_value=return_value,
                pipeline=pipe,
                worker_name=self.name,
                execution_id=execution.id,
                execution_started_at=execution.created_at,
                execution_ended_at=job.ended_at,
            )
            job.finished_job_registry.add(job, result_ttl_s, pipe)
            pipe.hset(job.key, mapping={"status": JobStatus.FINISHED, "ended_at": utcformat(job.ended_at)})
            pipe.expire(job.key, result_ttl_s)
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            pipe.execute()

    def record_failure(
        self, job: Job, queue: Queue, execution: Execution, message: str, execution_ttl_s: int
    ) -> None:
        """Store the error of a job and end its execution; enqueue it again if it has retries left.

        Args:
            job: The job.
            queue: Its queue.
            execution: Its execution, as returned by `start_executions`.
            message: The error, in one sentence.
            execution_ttl_s: As in `start_executions`.
        """
        self.handle_execution_ended(job, queue, execution_ttl_s)
        self.handle_job_failure(job, queue, exc_string=message, execution=execution)
