"""Jobs that wait together are answered together, and what happens to one of them happens to it alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rq.job import Job

from support.image_server import ImageServer, reply, running_server
from support.workers import PATIENCE_S, Workers, eventually, png, question
from worker.jobs.contract import Priority
from worker.jobs.priority_queue import PriorityQueue
from worker.jobs.queue import QUEUE_NAMES, RETRIES, SegmentQueue
from worker.settings import Settings

NO_IMAGE = "data:image/png;base64,bm90IGFuIGltYWdl"
REFUSED = "The prompt is too long for the model; shorten it."
FAILED = "The model failed on this image (RuntimeError)."


@pytest.fixture
def images() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


def asked(workers: Workers, *prompts: str, priority: Priority = "interactive") -> dict[str, str]:
    """Queues the prompts, and gives the job id of each."""
    jobs = {prompt: question(prompt, priority) for prompt in prompts}
    for job in jobs.values():
        workers.queue.enqueue(job)
    return {prompt: job.job_id for prompt, job in jobs.items()}


def ended(workers: Workers, ids: dict[str, str]) -> dict[str, str | None]:
    """What became of each prompt: its answer, or the reason there is none."""
    states: dict[str, str | None] = {}
    give_up = time.monotonic() + PATIENCE_S
    for prompt, job_id in ids.items():
        while (state := workers.queue.state(job_id)).status not in ("finished", "failed"):
            assert time.monotonic() < give_up, prompt
            time.sleep(0.05)
        states[prompt] = state.result.answer if state.result else state.reason
    return states


def answers(*prompts: str) -> dict[str, str]:
    return {prompt: f"{prompt}, after 0 turns [1]" for prompt in prompts}


def test_waiting_jobs_are_answered_in_batches_up_to_the_batch_size(workers: Workers) -> None:
    prompts = [f"p{number}" for number in range(6)]
    ids = asked(workers, *prompts)
    workers.start()
    assert ended(workers, ids) == answers(*prompts)
    assert workers.batches() == [prompts[:4], prompts[4:]]
    result = workers.queue.state(ids["p1"]).result
    assert result is not None and result.job_id == ids["p1"]
    assert set(result.timings) == {"fetch", "generate", "masks"}
    assert workers.queue.depth().running == 0


def test_a_batch_size_of_one_answers_one_after_the_other(workers: Workers) -> None:
    ids = asked(workers, "p0", "p1", "p2")
    workers.start(WORKER_BATCH_SIZE="1")
    assert ended(workers, ids) == answers("p0", "p1", "p2")
    assert workers.batches() == [["p0"], ["p1"], ["p2"]]


def test_a_single_job_is_not_kept_waiting_for_others(workers: Workers) -> None:
    workers.start()
    assert workers.answer(question("p0")).status == "finished"
    assert workers.batches() == [["p0"]]


@pytest.mark.parametrize(("device", "batch_jobs"), [("cpu", [["b0"], ["b1"]]), ("cuda:0", [["b0", "b1"]])])
def test_the_two_priorities_are_never_answered_together(
    workers: Workers, device: str, batch_jobs: list[list[str]]
) -> None:
    ids = asked(workers, "b0", "b1", priority="batch") | asked(workers, "i0", "i1")
    workers.start(DEVICE=device)
    assert ended(workers, ids) == answers("b0", "b1", "i0", "i1")
    assert workers.batches() == [["i0", "i1"], *batch_jobs]


def test_a_prompt_overtakes_batch_jobs_that_have_not_begun(workers: Workers) -> None:
    ids = asked(workers, "sleep 1 b0", "sleep 1 b1", "sleep 1 b2", priority="batch")
    workers.start()
    eventually(lambda: bool(workers.seen()), "the first began")
    ids |= asked(workers, "now")
    ended(workers, ids)
    assert workers.batches()[:2] == [["sleep 1 b0"], ["now"]]


def test_a_bad_image_and_a_bad_prompt_fail_alone(workers: Workers) -> None:
    ids = asked(workers, "p0", "refuse")
    broken = question("p1", image=NO_IMAGE)
    workers.queue.enqueue(broken)
    ids |= {"p1": broken.job_id} | asked(workers, "p2")
    workers.start()
    assert ended(workers, ids) == answers("p0", "p2") | {
        "refuse": REFUSED,
        "p1": "This is not an image of a supported kind (JPEG, PNG, WEBP, AVIF, BMP, GIF).",
    }
    assert workers.batches() == [["p0", "refuse", "p2"]]


def test_a_batch_without_any_image_does_not_reach_the_model(workers: Workers) -> None:
    broken = [question(prompt, image=NO_IMAGE) for prompt in ("p0", "p1")]
    for job in broken:
        workers.queue.enqueue(job)
    workers.start()
    for job in broken:
        assert workers.answer(job).status == "failed"
    assert workers.batches() == []


def test_when_all_fail_together_each_is_tried_alone(workers: Workers) -> None:
    ids = asked(workers, "p0", "raise", "p1")
    workers.start()
    assert ended(workers, ids) == answers("p0", "p1") | {"raise": FAILED}
    assert workers.batches() == [["p0", "raise", "p1"], ["p0"], ["raise"], ["p1"]]
    assert "a batch of 3 jobs failed; each is now run alone" in workers.log.read_text()


def test_a_batch_has_the_time_of_its_jobs_one_after_the_other(workers: Workers) -> None:
    ids = asked(workers, "sleep 0.8 p0", "sleep 0.8 p1")
    workers.start(JOB_TIMEOUT_S="1")
    assert ended(workers, ids) == answers("sleep 0.8 p0", "sleep 0.8 p1")
    assert len(workers.batches()) == 1

    ids = asked(workers, "sleep 20", "p2")
    assert ended(workers, ids) == answers("p2") | {
        "sleep 20": "This took longer than the worker allows (JOB_TIMEOUT_S) and was stopped."
    }


def test_every_job_of_a_killed_batch_runs_again_and_then_alone(workers: Workers) -> None:
    prompts = ["sleep 1.5", "p0", "p1"]
    ids = asked(workers, *prompts)
    first = workers.start("patient")
    eventually(lambda: workers.batches() == [prompts], "the batch began")
    assert workers.queue.depth().running == 3
    first.kill()
    killed = time.monotonic()
    workers.start("patient")

    assert ended(workers, ids) == answers(*prompts)
    # Whichever of them killed the worker must not do so to the others again.
    assert sorted(workers.batches()[1:]) == [["p0"], ["p1"], ["sleep 1.5"]]
    assert time.monotonic() - killed < 30


@pytest.mark.parametrize("moment", ["taken", "started"])
def test_a_batch_is_not_lost_between_taking_and_answering_it(workers: Workers, moment: str) -> None:
    ids = asked(workers, "p0", "p1", "p2")
    assert workers.start(moment).wait(timeout=30) == -signal.SIGKILL
    assert workers.queue.depth().interactive == 0, "all three were taken"
    workers.start()
    assert ended(workers, ids) == answers("p0", "p1", "p2")
    assert sorted(workers.batches()) == [["p0"], ["p1"], ["p2"]]


def test_a_job_that_kills_workers_costs_the_others_of_its_batch_one_retry(workers: Workers) -> None:
    ids = asked(workers, "die", "p0", "p1")
    for _ in range(3):
        assert workers.start().wait(timeout=30) == -signal.SIGKILL
    workers.start()
    assert ended(workers, ids) == answers("p0", "p1") | {
        "die": "The worker died while it worked on this, 3 times in a row; it is not tried again."
    }
    assert [workers.seen().count(prompt) for prompt in ids] == [3, 2, 2]


def test_a_worker_told_to_stop_at_once_hands_the_whole_batch_back(workers: Workers) -> None:
    ids = asked(workers, "sleep 4", "p0")
    process = workers.start()
    eventually(lambda: bool(workers.seen()), "the batch began")
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)  # RQ takes a second signal within a second for an echo of the first
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert [workers.queue.state(job_id).status for job_id in ids.values()] == ["queued", "queued"]


def test_images_are_fetched_at_the_same_time_and_each_once(workers: Workers, images: ImageServer) -> None:
    together = threading.Barrier(3)

    def when_all_have_asked(handler: BaseHTTPRequestHandler) -> None:
        together.wait(timeout=10)
        reply(png())(handler)

    paths = ["/a.png", "/b.png", "/c.png"]
    images.routes |= dict.fromkeys(paths, when_all_have_asked)
    urls = [f"{images.url}{path}" for path in [*paths, paths[0]]]
    jobs = [question(f"p{number}", image=url) for number, url in enumerate(urls)]
    for job in jobs:
        workers.queue.enqueue(job)
    workers.start(FETCH_ALLOW_HOSTS=images.address)
    assert [workers.answer(job).status for job in jobs] == ["finished"] * 4
    assert workers.batches() == [["p0", "p1", "p2", "p3"]]
    assert sorted(path for _, path, _ in images.requests) == paths


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(retries=st.lists(st.integers(0, RETRIES), max_size=8), count=st.integers(1, 5))
def test_a_batch_takes_the_first_jobs_that_were_never_started(
    redis_url: str, retries: list[int], count: int
) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
        asking = SegmentQueue(Settings(redis_url=redis_url))
        jobs = [question(f"p{number}") for number in range(len(retries))]
        for job, left in zip(jobs, retries, strict=True):
            asking.enqueue(job)
            connection.hset(Job.key_for(job.job_id), "retries_left", left)
        ids = [job.job_id for job in jobs]
        unstarted = next((n for n, left in enumerate(retries) if left != RETRIES), len(retries))
        taken = min(unstarted, count)

        queue = PriorityQueue(QUEUE_NAMES["interactive"], connection=connection, serializer="json")
        assert [job.id for job in queue.take_unstarted(count, RETRIES)] == ids[:taken]
        assert queue.intermediate_queue.get_job_ids() == ids[:taken]
        assert queue.job_ids == ids[taken:]
