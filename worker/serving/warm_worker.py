"""The RQ worker that keeps the model loaded: one process, jobs run inside it, and none is lost when it dies.

Jobs that are waiting already are run as one batch with the next job; no job is kept waiting for others. In
Redis each stays a job of its own, with its own state, result, retries and heartbeat.

A thread sends heartbeats every few seconds. When they stop, the next worker that looks puts the job back into
its queue: about ten seconds after the death, instead of RQ's minutes.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq.executions import Execution
from rq.job import Job
from rq.timeouts import JobTimeoutException
from rq.utils import now
from rq.worker import WorkerStatus as State

from pixellm_model import PromptError
from worker.images.decode import ImageError
from worker.jobs.priority_queue import PriorityQueue
from worker.jobs.queue import QUEUE_NAMES, RETRIES
from worker.jobs.rq_internals import WorkerInternals
from worker.jobs.status import WorkerStatus, publish, withdraw
from worker.serving.engine import error_message, segment_batch

log = logging.getLogger(__name__)


class WarmWorker(WorkerInternals):
    """Runs jobs in this process: interactive ones first, then images to be warmed, then batch jobs."""

    queue_class = PriorityQueue
    execution_ttl_s = 10  # a job whose worker sent no heartbeat for this long is run again
    heartbeat_every_s = 3.0
    hang_grace_s = 10  # on top of a job's time limit, for Python to act on it

    def __init__(self, connection: Redis, job_timeout_s: int, batch_size: int) -> None:
        """Set up the worker; `alive`, `ready` and `work` follow.

        Args:
            connection: Redis without a socket timeout (`worker.jobs.queue.connect_blocking`).
            job_timeout_s: The time limit of one job.
            batch_size: The largest number of jobs in a batch.
        """
        super().__init__(
            list(QUEUE_NAMES.values()),
            connection=connection,
            serializer="json",
            worker_ttl=20,
            maintenance_interval=2,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self.job_timeout_s = job_timeout_s
        self.batch_size = batch_size
        self._status = WorkerStatus(name=self.name, host=socket.gethostname(), pid=os.getpid())

    @property
    def dequeue_timeout(self) -> float:
        """Seconds of one wait on the empty queues; a batch job waits at most this long to be seen."""
        return 0.5

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Publish this worker's status and send heartbeats within the context."""
        self._send_heartbeats()
        stop = threading.Event()
        thread = threading.Thread(target=self._heartbeat_loop, args=(stop,), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            withdraw(self.connection, self._status)

    def ready(self, model_version: str, device: str, follows_up: bool = False) -> None:
        """Publish that the model is loaded; call `work` next.

        From here on a signal to stop raises rq.exceptions.StopRequested between jobs.
        """
        self.install_signal_handlers()
        self._status = self._status.model_copy(
            update={
                "state": "ready",
                "model_version": model_version,
                "device": device,
                "follows_up": follows_up,
            }
        )
        self._send_heartbeats()

    def _heartbeat_loop(self, stop: threading.Event) -> None:
        while not stop.wait(self.heartbeat_every_s):
            try:
                self._send_heartbeats()
            except RedisError as error:
                log.warning("heartbeat missed: %s", error)

    def _send_heartbeats(self) -> None:
        publish(self.connection, self._status)
        for execution in list(self.executions.values()):
            self.maintain_heartbeats(execution.job, execution)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds after which a job without a heartbeat counts as abandoned; RQ asks for it."""
        return self.execution_ttl_s

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Send the worker's own heartbeat, at most once in `heartbeat_every_s`.

        RQ calls this four times per job, and each call costs three commands. The heartbeat's key expires
        after a minute, so most calls can be skipped.
        """
        elapsed = now() - self.last_heartbeat if self.last_heartbeat else None
        if pipeline is not None or elapsed is None or elapsed.total_seconds() > self.heartbeat_every_s:
            super().heartbeat(timeout, pipeline)

    def execute_job(self, job: Job, queue: PriorityQueue) -> None:
        """Run `job`, and in the same batch the jobs behind it that may be run together with it."""
        jobs = [job, *self._batch_mates(job, queue)]
        executions = self.start_executions(jobs, self.execution_ttl_s)
        try:
            for job, execution, outcome in zip(jobs, executions, self._outcomes(jobs), strict=True):
                self._record(job, queue, execution, outcome)
        except SystemExit as stop:  # asked to stop at once by a signal; another worker runs the rest
            for job, execution in zip(jobs, executions, strict=True):
                if execution.id in self.executions:
                    self._record_error(job, queue, execution, stop)
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.set_state(State.IDLE)

    def _batch_mates(self, job: Job, queue: PriorityQueue) -> list[Job]:
        """Take the jobs to run in one batch with `job`.

        A job that was started before runs alone: it may be what killed its worker, and must not use up the
        retries of others.
        """
        count = self._max_batch_size(queue) - 1
        return queue.take_unstarted(count, RETRIES) if count and job.retries_left == RETRIES else []

    def _max_batch_size(self, queue: PriorityQueue) -> int:
        """The largest batch from `queue`.

        A prompt that comes in meanwhile waits for the whole batch. On two CPU cores a batch of four takes
        nearly three times as long as one job, so batch jobs run singly there. A GPU has room for them.
        """
        single = queue.name == QUEUE_NAMES["batch"] and self._status.device == "cpu"
        return 1 if single else self.batch_size

    def _outcomes(self, jobs: Sequence[Job]) -> Iterator[Any]:
        """The result of each job, or the exception it raised, in order and as soon as it is known."""
        if len(jobs) > 1:
            try:
                with self._time_limit(len(jobs)):
                    results = segment_batch([job.args[0] for job in jobs])
            except Exception as error:
                log.error("a batch of %d jobs failed; each is now run alone", len(jobs), exc_info=error)
            else:
                yield from results
                return
        for job in jobs:
            yield self._outcome(job)

    def _outcome(self, job: Job) -> Any:
        try:
            with self._time_limit(1):
                return job.perform()
        except Exception as error:
            return error

    @contextmanager
    def _time_limit(self, num_jobs: int) -> Iterator[None]:
        """Raise JobTimeoutException within the context after `num_jobs` times a job's limit.

        The limit is a signal that Python handles between two bytecodes; code that hangs in C never gets
        there. Then the stacks are printed and the process ends, and another worker takes over.
        """
        limit_s = num_jobs * self.job_timeout_s
        faulthandler.dump_traceback_later(limit_s + self.hang_grace_s, exit=True)
        with self.death_penalty_class(limit_s, JobTimeoutException):
            yield

    def _record(self, job: Job, queue: PriorityQueue, execution: Execution, outcome: Any) -> None:
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self.record_success(job, execution, outcome)
        except Exception as error:
            self._record_error(job, queue, execution, error)

    def _record_error(
        self, job: Job, queue: PriorityQueue, execution: Execution, error: BaseException
    ) -> None:
        """Record one sentence for the caller; the traceback stays in this process's log.

        Only jobs whose worker died or was asked to stop by a signal are retried: an error would come again.
        """
        if isinstance(error, ImageError | PromptError):
            log.warning("%s: %s", job.id, error)
        else:
            log.error("%s failed", job.id, exc_info=error)
        if isinstance(error, Exception):
            job.retries_left = 0
        self.record_failure(job, queue, execution, error_message(error), self.execution_ttl_s)
