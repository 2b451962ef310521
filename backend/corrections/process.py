"""The process `python -m backend collect`: an RQ worker for the collector's jobs, and their schedule."""

from __future__ import annotations

import logging

from rq import Queue, SimpleWorker

from backend.corrections.schedule import Schedule
from backend.job_names import CORRECTIONS_QUEUE
from backend.settings import BackendSettings
from worker.jobs.queue import connect, connect_blocking
from worker.store import Database

log = logging.getLogger(__name__)

DEQUEUE_TIMEOUT_S = 5.0
WORKER_TTL_S = 60
MAINTENANCE_EVERY_S = 10


class CollectWorker(SimpleWorker):
    """Runs jobs in this process: none needs a new one, and forking costs more than most events."""

    @property
    def dequeue_timeout(self) -> float:
        """How long to wait for a job before other work is done, in seconds."""
        return DEQUEUE_TIMEOUT_S


def collect(settings: BackendSettings) -> int:
    """Run the collector until the process is asked to stop by a signal.

    Args:
        settings: The backend's settings.

    Returns:
        The process's exit code.

    Raises:
        RedisError: Redis cannot be used at the start.
        DatabaseUnavailable: The database cannot be used at the start.
    """
    Database(settings).migrate()
    connection = connect_blocking(settings.redis_url)
    queue = Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json")
    worker = CollectWorker(
        [queue],
        connection=connection,
        serializer="json",
        worker_ttl=WORKER_TTL_S,
        maintenance_interval=MAINTENANCE_EVERY_S,
    )
    worker.log_result_lifespan = False
    # APScheduler warns of each due time that is skipped while Redis is unavailable, which Schedule reports
    # itself.
    logging.getLogger("apscheduler").setLevel("ERROR")
    schedule = Schedule(settings, connect(settings.redis_url))
    schedule.start()
    log.info("collecting corrections")
    try:
        worker.work(logging_level="WARNING")
    finally:
        schedule.close()
    return 0
