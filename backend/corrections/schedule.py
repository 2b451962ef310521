"""Queues the collector's recurring jobs: requeueing, reconciling, and scheduled trainings.

RQ's own scheduler stores cron jobs as pickles, which no process here reads; APScheduler keeps them in memory.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from croniter import croniter
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue

from backend.corrections.webhook_inbox import EVENT_TIMEOUT_S
from backend.job_names import CLEAN_UP, CORRECTIONS_QUEUE, RECONCILE_ALL, REQUEUE_OVERDUE, TRAIN_ALL
from backend.settings import BackendSettings

log = logging.getLogger(__name__)

REQUEUE_EVERY_S = 20
CLEAN_UP_EVERY_S = 3600
CLEAN_UP_TIMEOUT_S = 600
RETRY_PAUSE_S = 1.0
TIMEZONE: Final = UTC


class CrontabTrigger(BaseTrigger):
    """Fires at the times of a crontab expression, as cron and croniter read it.

    APScheduler's own CronTrigger counts weekdays from Monday instead of Sunday, and wants day of month and
    day of week both to match where cron wants either.
    """

    def __init__(self, crontab: str, zone: tzinfo) -> None:
        """Set up the trigger.

        Args:
            crontab: The expression.
            zone: The time zone of its times.
        """
        self._crontab, self._zone = crontab, zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the next time at which to fire.

        Args:
            previous_fire_time: (ignored)
            now: The time to search from, with a timezone.

        Returns:
            The first time of the expression after `now`.
        """
        next_time: datetime = croniter(self._crontab, now.astimezone(self._zone)).get_next(datetime)
        return next_time


class Schedule:
    """Queues jobs when they are due, from threads of its own.

    A job that still waits in the queue is not queued again. While Redis is unavailable, the newest due time
    of each job waits for it. Several collectors may each have a schedule: every job only does what is left to
    do.
    """

    def __init__(self, settings: BackendSettings, connection: Redis) -> None:
        self._queue = Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json")
        self._closing = threading.Event()
        # Late jobs run once, however late they are.
        self._scheduler = BackgroundScheduler(
            timezone=TIMEZONE, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._add(REQUEUE_OVERDUE, IntervalTrigger(seconds=REQUEUE_EVERY_S), EVENT_TIMEOUT_S, at_start=True)
        if every_s := settings.reconcile_every_s:
            self._add(RECONCILE_ALL, IntervalTrigger(seconds=every_s), EVENT_TIMEOUT_S, at_start=True)
        self._add(CLEAN_UP, IntervalTrigger(seconds=CLEAN_UP_EVERY_S), CLEAN_UP_TIMEOUT_S)
        if crontab := settings.retrain_cron:
            zone = ZoneInfo(settings.retrain_timezone)
            self._add(TRAIN_ALL, CrontabTrigger(crontab, zone), EVENT_TIMEOUT_S)

    def start(self) -> None:
        """Start queueing."""
        self._scheduler.start()

    def close(self) -> None:
        """Stop queueing and wait for the threads."""
        self._closing.set()
        self._scheduler.shutdown()

    def _add(self, function: str, trigger: BaseTrigger, timeout_s: int, at_start: bool = False) -> None:
        first = {"next_run_time": datetime.now(TIMEZONE)} if at_start else {}
        self._scheduler.add_job(self._enqueue, trigger, (function, timeout_s), **first)

    def _enqueue(self, function: str, timeout_s: int) -> None:
        job_id = function.rpartition(".")[2]
        while not self._closing.is_set():
            try:
                if self._queue.get_job_position(job_id) is None:
                    self._queue.enqueue_call(function, job_id=job_id, timeout=timeout_s, result_ttl=0)
                return
            except RedisError as error:
                log.warning("the schedule waits for Redis: %s", error)
                self._closing.wait(RETRY_PAUSE_S)
