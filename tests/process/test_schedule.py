"""The collector's schedule: jobs are queued when they are due, and never pile up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue, SimpleWorker

from backend.corrections import schedule as schedule_module
from backend.corrections.schedule import CrontabTrigger, Schedule
from backend.job_names import CORRECTIONS_QUEUE, RECONCILE_ALL, REQUEUE_OVERDUE
from backend.settings import BackendSettings
from support.workers import eventually
from worker.jobs.queue import connect


@contextmanager
def running(redis_url: str, folder: Path, **options: Any) -> Iterator[Queue]:
    settings = BackendSettings(redis_url=redis_url, data_dir=folder, **options)
    connection = connect(redis_url)
    schedule = Schedule(settings, connection)
    schedule.start()
    try:
        yield Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json")
    finally:
        schedule.close()


def test_the_first_jobs_are_queued_at_once_and_only_once_while_they_wait(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_module, "REQUEUE_EVERY_S", 0.1)
    with running(redis_url, tmp_path, reconcile_every_s=1) as queue:
        eventually(lambda: queue.count == 2, "both jobs are queued")
        time.sleep(1.5)
        assert {job.func_name for job in queue.jobs} == {REQUEUE_OVERDUE, RECONCILE_ALL}
        assert queue.count == 2


def test_a_job_is_queued_again_after_it_ran_even_if_it_failed(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_module, "REQUEUE_EVERY_S", 0.1)
    monkeypatch.setattr(schedule_module, "REQUEUE_OVERDUE", "backend.corrections.jobs.no_such_function")
    with running(redis_url, tmp_path, reconcile_every_s=0) as queue:
        worker = SimpleWorker([queue], connection=queue.connection, serializer="json")
        for _ in range(3):
            eventually(lambda: queue.count == 1, "the job is queued")
            worker.work(burst=True, max_jobs=1, logging_level="CRITICAL")
        assert queue.failed_job_registry.count == 1


def test_a_job_that_takes_longer_than_its_interval_runs_again(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[float] = []

    def slow() -> None:
        runs.append(time.monotonic())
        time.sleep(0.5)

    monkeypatch.setattr(schedule_module, "REQUEUE_EVERY_S", 0.1)
    monkeypatch.setattr("backend.corrections.jobs.requeue_overdue", slow)
    with running(redis_url, tmp_path, reconcile_every_s=0) as queue:
        worker = SimpleWorker([queue], connection=queue.connection, serializer="json")
        deadline = time.monotonic() + 20
        while len(runs) < 3 and time.monotonic() < deadline:
            worker.work(burst=True, max_jobs=1, logging_level="CRITICAL")
        assert len(runs) == 3 and queue.count <= 1
        assert queue.failed_job_registry.count == 0


def test_a_due_job_waits_for_redis(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schedule_module, "RETRY_PAUSE_S", 0.05)
    enqueue_call, failures = Queue.enqueue_call, iter(range(3))

    def unreliable(queue: Queue, *arguments: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            raise RedisConnectionError("gone")
        return enqueue_call(queue, *arguments, **options)

    monkeypatch.setattr(Queue, "enqueue_call", unreliable)
    with running(redis_url, tmp_path, reconcile_every_s=0) as queue:
        eventually(lambda: queue.count == 1, "the job is queued")
    assert caplog.text.count("the schedule waits for Redis: gone") == 3


def test_closing_does_not_wait_for_redis(tmp_path: Path) -> None:
    schedule = Schedule(BackendSettings(data_dir=tmp_path), connect("redis://127.0.0.1:1/0"))
    schedule.start()
    time.sleep(0.2)
    start = time.monotonic()
    schedule.close()
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("crontab", "following"),
    [
        ("0 2 * * *", datetime(2026, 11, 27, 2, tzinfo=UTC)),
        ("0 2 * * 0", datetime(2026, 11, 29, 2, tzinfo=UTC)),  # a Sunday
        ("0 2 1 * 6", datetime(2026, 11, 28, 2, tzinfo=UTC)),  # the first of a month or a Saturday
    ],
)
def test_trainings_run_at_the_times_of_cron(crontab: str, following: datetime) -> None:
    thursday = datetime(2026, 11, 26, 12, tzinfo=UTC)
    trigger = CrontabTrigger(crontab, UTC)
    assert trigger.get_next_fire_time(None, thursday) == following
    assert trigger.get_next_fire_time(following, following) > following


def test_trainings_run_in_the_time_zone_of_the_setting() -> None:
    trigger = CrontabTrigger("0 2 * * *", ZoneInfo("America/New_York"))
    summer, winter = datetime(2026, 7, 1, 12, tzinfo=UTC), datetime(2026, 11, 26, 12, tzinfo=UTC)
    assert trigger.get_next_fire_time(None, summer) == datetime(2026, 7, 2, 6, tzinfo=UTC)
    assert trigger.get_next_fire_time(None, winter) == datetime(2026, 11, 27, 7, tzinfo=UTC)
    with pytest.raises(ValidationError, match="is not a time zone"):
        BackendSettings(retrain_timezone="Newyork")
