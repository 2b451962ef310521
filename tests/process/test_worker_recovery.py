"""What happens to a job when its worker is killed, hangs or is asked to stop; with real processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import redis

from support.redis_server import running_redis
from support.workers import Workers, eventually, question


def _lists_are_empty(workers: Workers) -> bool:
    with redis.Redis.from_url(workers.redis_url) as connection:
        return not list(connection.scan_iter("rq:queue:*:intermediate")) and not list(
            connection.scan_iter("rq:wip:*")
        )


def test_killed_worker_s_job_runs_again_within_seconds(workers: Workers) -> None:
    job = question("sleep 1.5")
    first = workers.start("patient")
    workers.queue.enqueue(job)
    eventually(lambda: workers.seen() == ["sleep 1.5"], "the job began")
    first.kill()
    killed = time.monotonic()
    workers.start("patient")

    state = workers.answer(job)

    assert state.status == "finished"
    assert workers.seen() == ["sleep 1.5", "sleep 1.5"]
    assert time.monotonic() - killed < 30, "stock RQ takes minutes; the promise is ten-odd seconds"
    eventually(lambda: _lists_are_empty(workers), "no trace of the job in the working lists")


@pytest.mark.parametrize("moment", ["taken", "started"])
def test_worker_killed_between_taking_and_starting_loses_nothing(workers: Workers, moment: str) -> None:
    jobs = [question("one", "interactive"), question("two", "batch")]
    for job in jobs:
        workers.queue.enqueue(job)
        assert workers.start(moment).wait(timeout=30) == -signal.SIGKILL
    assert workers.seen() == []
    workers.start()

    assert [workers.answer(job).status for job in jobs] == ["finished", "finished"]
    assert sorted(workers.seen()) == ["one", "two"]
    eventually(lambda: _lists_are_empty(workers), "no trace of the jobs in the working lists")


def test_a_job_that_kills_every_worker_fails_with_a_reason_and_others_are_answered(
    workers: Workers,
) -> None:
    deadly, harmless = question("die"), question("sleep 0.1")
    workers.queue.enqueue(deadly)
    workers.queue.enqueue(harmless)
    for _ in range(3):
        assert workers.start().wait(timeout=30) == -signal.SIGKILL
    survivor = workers.start()

    eventually(lambda: workers.queue.state(deadly.job_id).status == "failed", "the deadly is given up")
    reason = workers.queue.state(deadly.job_id).reason
    assert reason == "The worker died while it worked on this, 3 times in a row; it is not tried again."
    assert workers.answer(harmless).status == "finished"
    assert workers.seen().count("die") == 3
    assert survivor.poll() is None


def test_hanging_c_code_ends_the_process_and_prints_where(workers: Workers) -> None:
    workers.queue.enqueue(question("hang"))

    assert workers.start(JOB_TIMEOUT_S="1").wait(timeout=30) == 1
    log = workers.log.read_text()
    assert "Timeout" in log and "hang_in_c" in log
    assert workers.seen() == ["hang"]


def test_sigterm_finishes_the_running_job_and_leaves_the_rest(workers: Workers) -> None:
    running, waiting = question("sleep 1.5"), question("sleep 0.1")
    process = workers.start()
    workers.queue.enqueue(running)
    eventually(lambda: workers.seen() == ["sleep 1.5"], "the job began")
    workers.queue.enqueue(waiting)
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=30) == 0
    assert workers.queue.state(running.job_id).status == "finished"
    assert workers.queue.state(waiting.job_id).status == "queued"
    assert workers.queue.worker_status() == ()


def test_sigterm_ends_an_idle_worker(workers: Workers) -> None:
    process = workers.start()
    eventually(lambda: any(w.state == "ready" for w in workers.queue.worker_status()), "the worker is ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_second_sigterm_hands_the_running_job_to_another_worker(workers: Workers) -> None:
    job = question("sleep 4")
    process = workers.start()
    workers.queue.enqueue(job)
    eventually(lambda: workers.seen() == ["sleep 4"], "the job began")
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)  # RQ takes a second signal within a second for an echo of the first
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)

    assert workers.queue.state(job.job_id).status == "queued"


def test_long_job_of_a_living_worker_is_not_given_to_another(workers: Workers) -> None:
    for _ in range(2):
        workers.start()
    assert workers.answer(question("sleep 5")).status == "finished"
    assert workers.seen() == ["sleep 5"], "silence for 2 s counts as death here"


def test_idle_worker_outlives_a_restart_of_redis(tmp_path: Path) -> None:
    with running_redis() as url:
        workers = Workers(url, tmp_path)
        process = workers.start()
        assert workers.answer(question("before")).status == "finished"
        port = int(url.rpartition(":")[2].partition("/")[0])
    time.sleep(1)
    with running_redis(port):
        assert workers.answer(question("after")).status == "finished"
        assert process.poll() is None
        eventually(lambda: [w.state for w in workers.queue.worker_status()] == ["ready"], "it is seen again")
        workers.close()
