"""Two runs of one project exclude each other, and a run that died does not for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis.exceptions import LockNotOwnedError

from support.workers import eventually
from worker.jobs.queue import connect
from worker.learning import project_lock
from worker.learning.project_lock import ProjectLock

KEY = "pixellm:training:1"
TTL_S = 1.0


@pytest.fixture
def connection(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setattr(project_lock, "LOCK_TTL_S", TTL_S)
    monkeypatch.setattr(project_lock, "RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(project_lock, "RETRY_EVERY_S", 0.1)
    with connect(redis_url) as connection:
        connection.delete(KEY)
        yield connection


def test_a_second_run_waits_until_the_first_has_ended(connection: redis.Redis) -> None:
    order: list[str] = []

    def second() -> None:
        with ProjectLock(connection, "1"):
            order.append("second")

    thread = threading.Thread(target=second)
    with ProjectLock(connection, "1") as lock:
        thread.start()
        time.sleep(2 * TTL_S)
        lock.check()
        order.append("first")
    thread.join(timeout=5)
    assert order == ["first", "second"], "the lock is renewed while it is held"
    assert not connection.exists(KEY)


def test_projects_do_not_exclude_each_other(connection: redis.Redis) -> None:
    with ProjectLock(connection, "1"), ProjectLock(connection, "2"):
        pass


def test_the_lock_of_a_killed_run_expires(connection: redis.Redis) -> None:
    connection.set(KEY, "the token of a process that is gone", px=round(1000 * TTL_S))
    start = time.monotonic()
    with ProjectLock(connection, "1"):
        assert time.monotonic() - start < 2 * TTL_S


def test_a_lock_that_is_gone_is_taken_again(connection: redis.Redis) -> None:
    with ProjectLock(connection, "1") as lock:
        connection.delete(KEY)  # Redis restarted empty
        eventually(lambda: bool(connection.exists(KEY)), "the lock is there again", 5)
        lock.check()


def test_a_run_whose_lock_another_has_must_stop(
    connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with ProjectLock(connection, "1") as lock:
        connection.set(KEY, "another run")

        def lost() -> bool:
            try:
                lock.check()
            except LockNotOwnedError:
                return True
            return False

        eventually(lost, "the loss is seen", 5)
    assert connection.get(KEY) == b"another run", "the other run's lock is not released"
    assert "another run has taken the training lock" in caplog.text
