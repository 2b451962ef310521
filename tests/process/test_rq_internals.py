"""What worker/jobs/rq_internals.py relies on is in the installed RQ, and what it writes is what RQ writes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from rq import Queue, Retry, SimpleWorker, Worker
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import BaseRegistry, FailedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.worker import BaseWorker

from support.workers import ROOT, question
from worker.jobs import names, rq_internals
from worker.jobs.priority_queue import PriorityQueue
from worker.jobs.queue import QUEUE_NAMES, RETRIES, WAITING_TTL_S, SegmentQueue
from worker.jobs.rq_internals import WorkerInternals
from worker.settings import Settings

INTERACTIVE = QUEUE_NAMES["interactive"]


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Queue._fetch_dequeued_job, "connection queue_key job_id job_class serializer death_penalty_class"),
        (Queue.dequeue_any, "queues timeout connection job_class serializer death_penalty_class"),
        (Queue.lmove, "connection queue_key timeout"),
        (Queue.acquire_maintenance_lock, ""),
        (IntermediateQueue.__init__, "queue_key connection"),
        (IntermediateQueue.set_first_seen, "job_id"),
        (IntermediateQueue.get_first_seen, "job_id"),
        (IntermediateQueue.get_first_seen_key, "job_id"),
        (IntermediateQueue.should_be_cleaned_up, "job_id"),
        (IntermediateQueue.cleanup, "worker queue"),
        (BaseWorker._install_signal_handlers, ""),
        (SimpleWorker.execute_job, "job queue"),
        (Worker.main_work_horse, "job queue"),
        (BaseWorker.heartbeat, "timeout pipeline"),
        (SimpleWorker.get_heartbeat_ttl, "job working_time"),
        (BaseWorker.maintain_heartbeats, "job execution"),
        (BaseWorker.set_state, "state pipeline"),
        (BaseWorker.increment_successful_job_count, "pipeline"),
        (BaseWorker.increment_total_working_time, "job_execution_time pipeline"),
        (BaseWorker.cleanup_execution, "job pipeline execution"),
        (BaseWorker.handle_execution_ended, "job queue heartbeat_ttl"),
        (BaseWorker.handle_job_failure, "job queue started_job_registry exc_string execution"),
        (Job.prepare_for_execution, "worker_name pipeline"),
        (Job.get_result_ttl, "default_ttl"),
        (Job.to_dict, "include_meta include_result"),
        (BaseRegistry.add, "job ttl pipeline xx"),
        (Result.get_key, "job_id"),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_rq_has_the_functions_with_these_parameters(function: Callable[..., Any], expected: str) -> None:
    assert parameters(function) == expected.split()


def test_rq_creates_executions_and_results_with_the_arguments_we_give() -> None:
    assert parameters(Execution.create)[:4] == ["job", "ttl", "pipeline", "worker_name"]
    assert parameters(Result.create)[:3] == ["job", "type", "ttl"]
    assert {"return_value", "pipeline", "worker_name", "execution_id", "execution_started_at"} <= set(
        parameters(Result.create)
    )


def test_rq_s_worker_has_the_attributes_that_are_read(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        worker = SimpleWorker([INTERACTIVE], connection=connection)
        assert worker._shutdown_requested_date is None
        assert worker.executions == {}
        assert worker.last_heartbeat is None
        assert isinstance(SimpleWorker.dequeue_timeout, property)
    assert "_install_signal_handlers" in inspect.getsource(BaseWorker.bootstrap) + inspect.getsource(
        BaseWorker.work
    )
    assert "self._shutdown_requested_date = " in inspect.getsource(BaseWorker.request_stop)


def test_rq_s_private_names_stand_in_one_module() -> None:
    documented = inspect.getdoc(rq_internals) or ""
    for name in ("_fetch_dequeued_job", "_install_signal_handlers", "_shutdown_requested_date"):
        assert name in documented
        for path in [*(ROOT / "worker").rglob("*.py"), *(ROOT / "backend").rglob("*.py")]:
            assert path.name == "rq_internals.py" or name not in path.read_text(), path


def test_rq_s_words_for_the_death_of_a_worker() -> None:
    assert "AbandonedJobError" in inspect.getsource(StartedJobRegistry.cleanup)
    source = inspect.getsource(IntermediateQueue.cleanup)
    (recorded,) = [line for line in source.splitlines() if "exc_string=" in line]
    assert rq_internals.is_death_of_worker(recorded)


def stored(connection: redis.Redis) -> dict[bytes, Any]:
    """Everything in Redis by key, times apart."""
    dump: dict[bytes, Any] = {}
    for key in connection.scan_iter("*"):
        match connection.type(key):
            case b"hash":
                dump[key] = connection.hgetall(key)
            case b"list":
                dump[key] = connection.lrange(key, 0, -1)
            case b"set":
                dump[key] = connection.smembers(key)
            case b"zset":
                dump[key] = connection.zrange(key, 0, -1)
            case other:
                dump[key] = other
    for value in dump.values():
        if isinstance(value, dict):
            for name in (b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat"):
                if name in value:
                    value[name] = bool(value[name])
    return dump


def enqueue_with_rq(connection: redis.Redis, settings: Settings) -> Job:
    job = question("p0")
    queue = Queue(INTERACTIVE, connection=connection, serializer="json")
    return queue.enqueue_call(
        names.SEGMENT,
        args=(job.model_dump(mode="json"),),
        job_id=job.job_id,
        ttl=WAITING_TTL_S,
        result_ttl=settings.result_ttl_s,
        failure_ttl=settings.result_ttl_s,
        retry=Retry(max=RETRIES),
        description=f"{names.SEGMENT} (project 1, task 2)",
    )


def test_our_enqueueing_writes_what_rq_s_writes(redis_url: str) -> None:
    settings = Settings(redis_url=redis_url)
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
        enqueue_with_rq(connection, settings)
        expected = stored(connection)
        connection.flushall()
        SegmentQueue(settings).enqueue(question("p0"))
        assert stored(connection) == expected


class PlainWorker(WorkerInternals):
    """Finishes a job with our functions."""

    queue_class = PriorityQueue


def test_our_success_path_writes_what_rq_s_writes(redis_url: str) -> None:
    """The job hash is RQ's but for what a later heartbeat and RQ's second copy of the job change."""
    settings = Settings(redis_url=redis_url)
    with redis.Redis.from_url(redis_url) as connection:
        states = []
        for ours in (False, True):
            connection.flushall()
            job = enqueue_with_rq(connection, settings)
            kind = PlainWorker if ours else SimpleWorker
            worker = kind([INTERACTIVE], connection=connection, serializer="json", name="w")
            queue = worker.queues[0]
            connection.lmove(queue.key, queue.intermediate_queue.key, "LEFT", "RIGHT")
            if ours:
                (execution,) = worker.start_executions([job], 10)
                worker.record_success(job, execution, {"answer": "yes"})
            else:
                execution = worker.prepare_execution(job)
                worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
                job.started_at = job.started_at or job.enqueued_at
                worker._finalize_success(job, queue, execution, {"answer": "yes"})
            states.append(stored(connection))
            fetched = Job.fetch(job.id, connection=connection, serializer="json")
            assert fetched.is_finished and fetched.return_value() == {"answer": "yes"}
            assert not StartedJobRegistry(queue=queue).get_job_ids(cleanup=False)
            assert not FailedJobRegistry(queue=queue).get_job_ids(cleanup=False)
            assert abs(
                timedelta(seconds=settings.result_ttl_s) - timedelta(seconds=connection.ttl(job.key))
            ) < (timedelta(seconds=5))
    theirs, ours_stored = states
    assert ours_stored.keys() == theirs.keys()
    assert ours_stored[job.key.encode()].keys() == theirs[job.key.encode()].keys()
    assert ours_stored[job.key.encode()] == theirs[job.key.encode()]
