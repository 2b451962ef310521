"""Images that a worker looks at ahead of a prompt."""

from __future__ import annotations

from support.image_server import reply, running_server
from support.workers import Workers, data_url, eventually, png, question
from worker.jobs.contract import WarmJob


def opened(image: str | None = None, task: str = "2") -> WarmJob:
    return WarmJob(image=image or data_url(), model_version="stand-in-1", project="1", task=task)


def test_an_image_is_warmed_once(workers: Workers) -> None:
    for _ in range(2):
        workers.queue.enqueue_warm(opened())
    assert workers.queue.depth().warm == 1
    workers.start()
    eventually(lambda: workers.seen() == ["warm 8 x 6"], "the image is warm")
    workers.queue.enqueue_warm(opened())
    assert workers.answer(question("p0")).status == "finished"
    assert workers.seen() == ["warm 8 x 6", "p0"]
    assert opened().job_id != opened(data_url(9, 6)).job_id


def test_prompts_come_before_it_and_do_not_count_it(workers: Workers) -> None:
    jobs = {line: question(line, line) for line in ("batch", "interactive")}
    for job in jobs.values():
        workers.queue.enqueue(job)
    workers.queue.enqueue_warm(opened())
    assert workers.queue.state(jobs["interactive"].job_id).ahead == 0
    assert workers.queue.state(jobs["batch"].job_id).ahead == 1
    workers.start()
    assert workers.answer(jobs["batch"]).status == "finished"
    assert workers.seen() == ["interactive", "warm 8 x 6", "batch"]


def test_an_image_that_cannot_be_had_is_only_a_line_in_the_log(workers: Workers) -> None:
    job = opened("data:image/png;base64,bm90IGFuIGltYWdl")
    process = workers.start()
    workers.queue.enqueue_warm(job)
    eventually(lambda: job.job_id in workers.log.read_text(), "the failure is logged")
    assert workers.answer(question("p0")).status == "finished"
    assert process.poll() is None and "Traceback" not in workers.log.read_text()


def test_the_prompt_that_follows_does_not_fetch_the_image_again(workers: Workers) -> None:
    with running_server() as images:
        images.routes["/cup.png"] = reply(png())
        url = f"{images.url}/cup.png"
        workers.start(FETCH_ALLOW_HOSTS=images.address)
        workers.queue.enqueue_warm(opened(url))
        eventually(lambda: workers.seen() == ["warm 8 x 6"], "the image is warm")
        for prompt in ("p0", "p1"):
            assert workers.answer(question(prompt, image=url)).status == "finished"
        assert len(images.requests) == 1
