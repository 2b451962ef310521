"""The queue as the backend uses it, in front of real worker processes."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import time
from typing import cast

import pytest
import redis
from rq import Queue

from support.workers import ROOT, Workers, ask, data_url, eventually, question
from worker.jobs.contract import SegmentJob, Turn
from worker.jobs.masks import from_rle
from worker.jobs.queue import QUEUE_NAMES, QueueUnavailable, SegmentQueue
from worker.settings import Settings


def test_answer_carries_what_the_model_said(workers: Workers) -> None:
    workers.start()
    job = SegmentJob(
        image=data_url(8, 6), prompt="the cup", history=(Turn(prompt="all cups", answer="two cups"),)
    )

    result = workers.answer(job).result

    assert result is not None
    assert (result.width, result.height, result.model_version) == (8, 6, "stand-in-1")
    assert result.answer == "the cup, after 1 turns [1]"
    assert result.warnings == ("a warning",)
    assert set(result.timings) == {"fetch", "generate", "masks"}
    [target] = result.targets
    assert (target.phrase, target.score, target.box) == ("the cup", 0.75, (0, 0, 3, 2))
    mask = from_rle(target.mask)
    assert mask.shape == (6, 8) and mask[:2, :3].all() and mask.sum() == 6


def test_same_question_is_computed_once(workers: Workers) -> None:
    job = question("sleep 0.5")
    workers.start()

    async def ask_four_times() -> list[str]:
        queue = SegmentQueue(workers.settings)
        try:
            states = await asyncio.gather(*(ask(queue, job, 30) for _ in range(4)))
        finally:
            await queue.aclose()
        return [state.status for state in states]

    assert asyncio.run(ask_four_times()) == ["finished"] * 4
    assert workers.answer(job).status == "finished"
    assert workers.seen() == ["sleep 0.5"]


def test_answers_are_forgotten_after_their_time(workers: Workers) -> None:
    job = question("cup")
    workers.settings = workers.settings.model_copy(update={"result_ttl_s": 1})
    workers.start()
    assert workers.answer(job).status == "finished"
    eventually(lambda: workers.queue.state(job.job_id).status == "unknown", "the answer is gone")
    assert workers.answer(job).status == "finished"
    assert workers.seen() == ["cup", "cup"]


def test_interactive_overtakes_batch_and_each_keeps_its_order(workers: Workers) -> None:
    order = [("b1", "batch"), ("b2", "batch"), ("i1", "interactive"), ("i2", "interactive")]
    jobs = {name: question(name, priority) for name, priority in order}  # type: ignore[arg-type]  # mypy infers str for the literals
    for job in jobs.values():
        workers.queue.enqueue(job)
    assert {name: workers.queue.state(job.job_id).ahead for name, job in jobs.items()} == {
        "i1": 0,
        "i2": 1,
        "b1": 2,
        "b2": 3,
    }
    depth = workers.queue.depth()
    assert (depth.interactive, depth.batch, depth.running) == (2, 2, 0)

    workers.start()
    for job in jobs.values():
        assert workers.answer(job).status == "finished"
    assert workers.seen() == ["i1", "i2", "b1", "b2"]


def test_waiting_batch_question_asked_interactively_moves_ahead(workers: Workers) -> None:
    for name in ("b1", "b2"):
        workers.queue.enqueue(question(name, "batch"))
    workers.queue.enqueue(question("b2", "interactive"))
    assert workers.queue.depth().interactive == 1

    workers.start()
    assert workers.answer(question("b1", "batch")).status == "finished"
    assert workers.answer(question("b2")).status == "finished"
    assert workers.seen() == ["b2", "b1"]


def test_timeout_returns_the_state_and_the_answer_comes_later(workers: Workers) -> None:
    job = question("sleep 1")
    assert workers.answer(job, timeout_s=0.1).status == "queued"
    workers.start()
    eventually(lambda: workers.queue.state(job.job_id).status == "running", "the job runs")
    assert workers.queue.depth().running == 1
    assert workers.answer(job, timeout_s=0).status == "running"
    assert workers.answer(job).status == "finished"
    assert workers.seen() == ["sleep 1"]


def test_failed_job_answers_with_its_reason_and_may_be_asked_again(workers: Workers) -> None:
    workers.start()
    image = "data:image/png;base64,bm90IGFuIGltYWdl"
    for job, reason in [
        (question("raise"), "The model failed on this image (RuntimeError)."),
        (question("refuse"), "The prompt is too long for the model; shorten it."),
        (
            question("cup", image=image),
            "This is not an image of a supported kind (JPEG, PNG, WEBP, AVIF, BMP, GIF).",
        ),
    ]:
        for _ in range(2):
            state = workers.answer(job)
            assert (state.status, state.reason) == ("failed", reason)
    assert workers.seen() == ["raise", "raise", "refuse", "refuse"]
    assert "an internal detail" in workers.log.read_text(), "the traceback belongs in the log"
    with redis.Redis.from_url(workers.redis_url) as connection:
        stored = b"".join(connection.dump(key) or b"" for key in connection.scan_iter("*"))
    assert b"an internal detail" not in stored


def test_job_over_its_time_fails_and_the_worker_goes_on(workers: Workers) -> None:
    process = workers.start(JOB_TIMEOUT_S="1")
    state = workers.answer(question("sleep 20"))
    assert state.reason == "This took longer than the worker allows (JOB_TIMEOUT_S) and was stopped."
    assert workers.answer(question("cup")).status == "finished"
    assert process.poll() is None


def test_pickled_job_is_refused_not_unpickled(workers: Workers) -> None:
    witness = workers.folder / "unpickled"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return exec, (f"open({str(witness)!r}, 'w')",)

    pickle.loads(pickle.dumps(Bomb()))
    assert witness.exists(), "the bomb works"
    witness.unlink()
    with redis.Redis.from_url(workers.redis_url) as connection:
        Queue(QUEUE_NAMES["interactive"], connection=connection).enqueue(
            "worker.serving.engine.segment", Bomb(), job_id="seg-bomb"
        )
        process = workers.start()
        eventually(lambda: workers.queue.state("seg-bomb").status == "failed", "the job is refused")
        assert workers.answer(question("cup")).status == "finished"
        stored = connection.hgetall(b"rq:job:" + question("cup").job_id.encode())
    assert not witness.exists()
    assert process.poll() is None
    assert not any(value.startswith(b"\x80") for value in stored.values())


def test_worker_is_seen_loading_then_ready_and_its_jobs_wait(workers: Workers) -> None:
    assert workers.queue.worker_status() == ()
    process = workers.start(LOAD_S="1.5")
    job = question("cup")
    workers.queue.enqueue(job)
    eventually(lambda: bool(workers.queue.worker_status()), "the worker is seen")
    [status] = workers.queue.worker_status()
    assert (status.state, status.model_version, status.pid) == ("loading", None, process.pid)
    assert workers.queue.state(job.job_id).status == "queued"
    assert workers.answer(job).status == "finished"
    [status] = workers.queue.worker_status()
    assert (status.state, status.model_version, status.device) == ("ready", "stand-in-1", "cpu")
    with redis.Redis.from_url(workers.redis_url) as connection:
        assert 0 < cast(int, connection.ttl(status.key)) <= 10, "a dead worker is soon no longer seen"


def test_unknown_job_has_the_state_unknown(workers: Workers) -> None:
    assert workers.queue.state("seg-never-asked").status == "unknown"


def test_backend_s_side_of_the_worker_needs_no_torch() -> None:
    modules = (
        "worker.jobs.queue, worker.jobs.contract, worker.jobs.masks, worker.jobs.status, "
        "worker.images.fetch, worker.serving.engine, worker.serving.process, worker.settings"
    )
    program = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_an_unavailable_redis_is_reported_within_two_seconds() -> None:
    queue = SegmentQueue(Settings(redis_url="redis://:a-secret@127.0.0.1:1/0"))
    start = time.monotonic()
    with pytest.raises(QueueUnavailable, match=r"REDIS_URL") as raised:
        queue.enqueue(question("cup"))
    assert time.monotonic() - start < 2
    assert "a-secret" not in str(raised.value)
    with pytest.raises(QueueUnavailable):
        asyncio.run(queue.wait("seg-x", 5))


def test_worker_says_in_one_line_why_it_cannot_start(workers: Workers) -> None:
    folder = workers.folder / "no-such-model"
    started = [
        workers.run_module("--redis-url", "redis://127.0.0.1:1/0"),
        workers.run_module("--redis-url", "localhost"),
        workers.run_module("--model", str(folder)),
    ]
    assert [process.wait(timeout=30) for process in started] == [2, 2, 2]
    log = workers.log.read_text()
    assert len(log.splitlines()) == 3, log
    assert "Redis (REDIS_URL) cannot be used: " in log
    assert "REDIS_URL: must begin with redis://" in log
    assert "no-such-model (MODEL_DIR) is not a folder" in log
