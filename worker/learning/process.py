"""The learner: a process that does the requested trainings, each in a child process of its own.

A child returns its memory when it ends, and one that is killed leaves the learner alive.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys

from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.job import Job

from worker.jobs.names import TRAINING_QUEUE
from worker.jobs.queue import connect, connect_blocking
from worker.learning.job import install
from worker.settings import WorkerSettings
from worker.startup import EXIT_CANNOT_START, configure_logging
from worker.store import Database, DatabaseUnavailable, runs

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>: the signal a child gets when its parent dies
_libc = ctypes.CDLL(None)


class TrainingWorker(Worker):
    """RQ's forking worker. This process must never use the GPU: after that its children could not."""

    @property
    def dequeue_timeout(self) -> float:
        """Seconds of one wait on the empty queue."""
        return 5.0

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Run a job in the child process, which ends when the learner dies."""
        # The next learner starts the training again, in the same folder: the old one must be gone by then.
        if sys.platform == "linux":
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        super().main_work_horse(job, queue)


def learn(settings: WorkerSettings) -> int:
    """Run the learner until it receives SIGINT or SIGTERM; a training that is running is finished first.

    Args:
        settings: The worker's settings.

    Returns:
        The exit code of the process: 0 after a signal, EXIT_CANNOT_START if Redis or the database cannot be
        used at the start.
    """
    configure_logging(settings.log_level)
    try:
        redis = connect(settings.redis_url)
    except ValueError as error:  # not the URL of a Redis
        log.error("Redis (REDIS_URL) cannot be used: %s", error)
        return EXIT_CANNOT_START
    try:
        with redis:
            redis.ping()
            database = Database(settings)
            database.migrate()
            runs.requeue(database, redis)
            database.close()
    except RedisError as error:
        log.error("Redis (REDIS_URL) cannot be used: %s", error)
        return EXIT_CANNOT_START
    except DatabaseUnavailable as error:
        log.error("%s", error)
        return EXIT_CANNOT_START
    connection = connect_blocking(settings.redis_url)
    queue = Queue(TRAINING_QUEUE, connection=connection, serializer="json")
    worker = TrainingWorker(
        [queue], connection=connection, serializer="json", job_monitoring_interval=5, maintenance_interval=10
    )
    worker.log_result_lifespan = False
    install(settings)
    log.info("waiting for trainings")
    worker.work(logging_level="WARNING")
    return 0
