"""The RQ worker that keeps the model warm: one process, jobs run inside it, and none is lost when it dies.

A thread says every few seconds that the process is alive. When it stops saying so, the next worker to look
gives the job to the queue again, ten-odd seconds after the death instead of RQ's minutes.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job

from worker.images import ImageError
from worker.jobs import reason
from worker.priority_queue import PriorityQueue
from worker.queue import QUEUE_NAMES
from worker.status import WorkerStatus, publish, withdraw

log = logging.getLogger(__name__)

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class WarmWorker(SimpleWorker):
    """Runs segmentation jobs one after the other in this process, interactive ones first.

    `connection` must have no socket timeout (`worker.queue.connect_blocking`).
    """

    queue_class = PriorityQueue
    execution_ttl_s = 10  # a job whose worker was silent for this long is run again
    beat_every_s = 3.0
    hang_grace_s = 10  # on top of the job's time, for Python to act on the time limit

    def __init__(self, connection: Redis, job_timeout_s: int) -> None:
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

    def execute_job(self, job: Job, queue: Queue) -> None:
        job.timeout = self.job_timeout_s
        # The time limit is a signal that Python handles between two bytecodes; code that hangs in C never
        # gets there. Then the stacks are printed and the process ends, and another worker takes over.
        faulthandler.dump_traceback_later(self.job_timeout_s + self.hang_grace_s, exit=True)
        try:
            super().execute_job(job, queue)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = True) -> None:
        """With two queues RQ would leave the job in the intermediate list, where PriorityQueue puts it."""
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)

    def _finalize_failure(self, job: Job, queue: Queue, execution: Execution, exc_info: ExcInfo) -> None:
        """Records one sentence for the caller; the traceback stays in this process's log. A question that
        raised would raise again, so only jobs whose worker died or was told to stop at once are retried."""
        error = exc_info[1]
        assert error is not None
        if isinstance(error, ImageError):
            log.warning("%s: %s", job.id, error)
        else:
            log.error("%s failed", job.id, exc_info=error)
        if isinstance(error, Exception):
            job.retries_left = 0
        self.handle_execution_ended(job, queue, self.execution_ttl_s)
        self.handle_job_failure(job, queue, exc_string=reason(error), execution=execution)
