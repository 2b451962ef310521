"""`python -m backend collect`: understands webhooks, reconciles, and asks for trainings on time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from croniter import croniter
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker

from backend import job_names
from backend.corrections.webhook_inbox import EVENT_TIMEOUT_S
from backend.settings import BackendSettings
from worker.jobs.queue import connect, connect_blocking
from worker.store import Database

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 20
RECONCILE_TIMEOUT_S = 3600


class CollectWorker(SimpleWorker):
    """Runs in this process: nothing here needs a fresh one, and forking for each event costs more than it."""

    @property
    def dequeue_timeout(self) -> float:
        return 5.0


def collect(settings: BackendSettings) -> int:
    """Works until told to stop; returns the process's exit code."""
    Database(settings).migrate()
    connection = connect_blocking(settings.redis_url)
    queue = Queue(job_names.CORRECTIONS_QUEUE, connection=connection, serializer="json")
    worker = CollectWorker(
        [queue], connection=connection, serializer="json", worker_ttl=60, maintenance_interval=10
    )
    worker.log_result_lifespan = False
    over = threading.Event()
    clock = threading.Thread(target=_keep_time, args=(settings, over), name="schedule", daemon=True)
    clock.start()
    log.info("collecting corrections")
    try:
        worker.work(logging_level="WARNING")
    finally:
        over.set()
        clock.join()
    return 0


def _keep_time(settings: BackendSettings, over: threading.Event) -> None:
    """Queues what is due. Several collectors may do so: each job finds what is left to do, and no more.

    RQ's own scheduler writes pickles into the queue, which nobody here reads.
    """
    queue = Queue(job_names.CORRECTIONS_QUEUE, connection=connect(settings.redis_url), serializer="json")
    timetable = list(_timetable(settings, time.time()))
    while not over.wait(1.0):
        for due in timetable:
            if due.at > time.time():
                continue
            try:
                queue.enqueue_call(due.function, timeout=due.timeout_s, result_ttl=0)
            except RedisError as error:
                log.warning("the schedule waits for Redis: %s", error)
            else:
                due.at = due.next_after(time.time())


@dataclass
class _Due:
    function: str
    timeout_s: int
    next_after: Callable[[float], float]
    at: float


def _timetable(settings: BackendSettings, start: float) -> Iterator[_Due]:
    yield _Due(job_names.REQUEUE_OVERDUE, EVENT_TIMEOUT_S, lambda last: last + SWEEP_EVERY_S, start)
    if every_s := settings.reconcile_every_s:
        yield _Due(
            job_names.RECONCILE_ALL,
            RECONCILE_TIMEOUT_S,
            lambda last: last + every_s,
            start,
        )
    if cron := settings.retrain_cron:

        def following(last: float) -> float:
            return float(croniter(cron, last).get_next(float))

        yield _Due(job_names.TRAIN_ALL, EVENT_TIMEOUT_S, following, following(start))
