"""The RQ worker that keeps the model warm: one process, jobs run inside it, and none is lost when it dies.

Jobs that wait already are answered together with the one that is next, never waiting for more. To Redis each
remains a job of its own, with its own state, answer, retries and heartbeat.

A thread says every few seconds that the process is alive. When it stops saying so, the next worker to look
gives the job to the queue again, ten-odd seconds after the death instead of RQ's minutes.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.results import Result
from rq.timeouts import JobTimeoutException
from rq.utils import now, utcformat
from rq.worker import WorkerStatus as State

from pixellm_model import PromptError
from worker.images.decode import ImageError
from worker.jobs.priority_queue import PriorityQueue
from worker.jobs.queue import QUEUE_NAMES, RETRIES
from worker.jobs.status import WorkerStatus, publish, withdraw
from worker.serving.engine import reason, segment_batch

log = logging.getLogger(__name__)

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class WarmWorker(SimpleWorker):
    """Runs jobs in this process: interactive ones first, then images to be warmed, then batch ones.

    `connection` must have no socket timeout (`worker.jobs.queue.connect_blocking`).
    """

    queue_class = PriorityQueue
    execution_ttl_s = 10  # a job whose worker was silent for this long is run again
    beat_every_s = 3.0
    hang_grace_s = 10  # on top of the job's time, for Python to act on the time limit

    def __init__(self, connection: Redis, job_timeout_s: int, batch_size: int) -> None:
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
        """How long one look at the empty queues takes, in seconds: a batch job waits at most this."""
        return 0.5

    @property
    def stopped_on_request(self) -> bool:
        return self._shutdown_requested_date is not None

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Within it the worker is seen: first as loading, from `ready` on as ready."""
        self._beat()
        over = threading.Event()
        heart = threading.Thread(target=self._keep_beating, args=(over,), name="heartbeat", daemon=True)
        heart.start()
        try:
            yield
        finally:
            over.set()
            heart.join()
            withdraw(self.connection, self._status)

    def ready(self, model_version: str, device: str) -> None:
        """To be followed by `work`. From here on a signal to stop raises rq's StopRequested between jobs."""
        self._install_signal_handlers()
        self._status = self._status.model_copy(
            update={"state": "ready", "model_version": model_version, "device": device}
        )
        self._beat()

    def _keep_beating(self, over: threading.Event) -> None:
        while not over.wait(self.beat_every_s):
            try:
                self._beat()
            except RedisError as error:
                log.warning("heartbeat missed: %s", error)

    def _beat(self) -> None:
        publish(self.connection, self._status)
        for execution in list(self.executions.values()):
            self.maintain_heartbeats(execution.job, execution)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return self.execution_ttl_s

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ does this four times around each job, in three commands each; its key lives for a minute."""
        since = now() - self.last_heartbeat if self.last_heartbeat else None
        if pipeline is not None or since is None or since.total_seconds() > self.beat_every_s:
            super().heartbeat(timeout, pipeline)

    def execute_job(self, job: Job, queue: PriorityQueue) -> None:
        """Runs `job`, and with it those that wait behind it and may be answered together."""
        jobs = [job, *self._company(job, queue)]
        executions = self._begin(jobs)
        try:
            for job, execution, outcome in zip(jobs, executions, self._outcomes(jobs), strict=True):
                self._finish(job, queue, execution, outcome)
        except SystemExit as told_to_stop:  # at once: what is not finished is for another worker
            for job, execution in zip(jobs, executions, strict=True):
                if execution.id in self.executions:
                    self._finalize_failure(job, queue, execution, (SystemExit, told_to_stop, None))
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.set_state(State.IDLE)

    def _company(self, job: Job, queue: PriorityQueue) -> list[Job]:
        """Jobs to answer together with `job`. One that was begun before runs alone, and is no company either:
        it may be what killed its worker, and should not use up the retries of others."""
        room = self._largest_batch(queue) - 1
        return queue.take_unbegun(room, RETRIES) if room and job.retries_left == RETRIES else []

    def _largest_batch(self, queue: PriorityQueue) -> int:
        """A prompt that comes in while batch jobs are answered waits for all of them. On two CPU cores four
        take nearly three times as long as one, so there it is one; a GPU is taken to have room for them."""
        lone = queue.name == QUEUE_NAMES["batch"] and self._status.device == "cpu"
        return 1 if lone else self.batch_size

    def _begin(self, jobs: Sequence[Job]) -> list[Execution]:
        """Moves `jobs` from the intermediate list to those that are running, all or none of them; RQ does it
        in two steps for each."""
        with self.connection.pipeline() as pipe:
            executions = [Execution.create(job, self.execution_ttl_s, pipe, self.name) for job in jobs]
            for job in jobs:
                job.prepare_for_execution(self.name, pipeline=pipe)
                pipe.persist(job.key)
                pipe.lrem(PriorityQueue(job.origin, self.connection).intermediate_queue.key, 1, job.id)
            self.set_state(State.BUSY, pipeline=pipe)
            pipe.execute()
        self.executions.update((execution.id, execution) for execution in executions)
        return executions

    def _outcomes(self, jobs: Sequence[Job]) -> Iterator[Any]:
        """What each job answers or raises, in order, as soon as it is known."""
        if len(jobs) > 1:
            try:
                with self._time_limit(len(jobs)):
                    answers = segment_batch([job.args[0] for job in jobs])
            except Exception as error:
                log.error("%d jobs failed together; each is now run alone", len(jobs), exc_info=error)
            else:
                yield from answers
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
    def _time_limit(self, jobs: int) -> Iterator[None]:
        """Raises JobTimeoutException within after the time that `jobs` jobs have one after the other.

        The limit is a signal that Python handles between two bytecodes; code that hangs in C never gets
        there. Then the stacks are printed and the process ends, and another worker takes over.
        """
        limit_s = jobs * self.job_timeout_s
        faulthandler.dump_traceback_later(limit_s + self.hang_grace_s, exit=True)
        with self.death_penalty_class(limit_s, JobTimeoutException):
            yield

    def _finish(self, job: Job, queue: PriorityQueue, execution: Execution, outcome: Any) -> None:
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self._finalize_success(job, queue, execution, outcome)
        except Exception as error:
            self._finalize_failure(job, queue, execution, (type(error), error, error.__traceback__))

    def _finalize_success(self, job: Job, queue: PriorityQueue, execution: Execution, answer: Any) -> None:
        """RQ's own in one command instead of four, and without sending the question, with an image in it at
        times, once more: our jobs have no dependents, callbacks or repeats."""
        job.ended_at = now()
        keep_s = job.get_result_ttl(self.default_result_ttl)
        with self.connection.pipeline() as pipe:
            self.increment_successful_job_count(pipeline=pipe)
            self.increment_total_working_time(job.ended_at - job.started_at, pipe)
            Result.create(
                job,
                Result.Type.SUCCESSFUL,
                keep_s,
                return_value=answer,
                pipeline=pipe,
                worker_name=self.name,
                execution_id=execution.id,
                execution_started_at=execution.created_at,
                execution_ended_at=job.ended_at,
            )
            job.finished_job_registry.add(job, keep_s, pipe)
            pipe.hset(job.key, mapping={"status": JobStatus.FINISHED, "ended_at": utcformat(job.ended_at)})
            pipe.expire(job.key, keep_s)
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            pipe.execute()

    def _finalize_failure(
        self, job: Job, queue: PriorityQueue, execution: Execution, exc_info: ExcInfo
    ) -> None:
        """Records one sentence for the caller; the traceback stays in this process's log. A question that
        raised would raise again, so only jobs whose worker died or was told to stop at once are retried."""
        error = exc_info[1]
        assert error is not None
        if isinstance(error, ImageError | PromptError):
            log.warning("%s: %s", job.id, error)
        else:
            log.error("%s failed", job.id, exc_info=error)
        if isinstance(error, Exception):
            job.retries_left = 0
        self.handle_execution_ended(job, queue, self.execution_ttl_s)
        self.handle_job_failure(job, queue, exc_string=reason(error), execution=execution)
