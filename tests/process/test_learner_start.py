"""The learner at its start: the settings of its trainings, and the jobs that an older release queued."""

from __future__ import annotations

from pathlib import Path

import pytest
from rq import Queue
from rq.job import JobStatus
from test_collect import NOWHERE, make

import worker.__main__ as command_line
from worker.jobs.names import TRAIN, TRAINING_QUEUE
from worker.jobs.queue import connect
from worker.learning import job
from worker.learning.process import TrainingWorker
from worker.settings import WorkerSettings
from worker.store import runs
from worker.store.tables import TrainingRun


def test_the_flags_of_the_learner_reach_its_trainings(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_with: list[WorkerSettings] = []

    class Recorder:
        def __init__(self, settings: WorkerSettings, *others: object) -> None:
            trained_with.append(settings)

        def run(self) -> str:
            return "promoted"

    def work(learner: TrainingWorker, **options: object) -> None:
        assert job.run(number) == "promoted"

    database = make(tmp_path, redis_url).database
    number = runs.request(database, connect(redis_url), "1", "test")
    for name, value in {
        "REDIS_URL": NOWHERE,
        "DATA_DIR": str(tmp_path / "data"),
        "DEVICE": "auto",
        "DTYPE": "float32",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(job, "_settings", None)
    monkeypatch.setattr(job, "Retraining", Recorder)
    monkeypatch.setattr(TrainingWorker, "work", work)
    flags = ["--model", str(tmp_path / "model"), "--device", "cpu", "--redis-url", redis_url]
    assert command_line.main(["learn", *flags]) == 0
    (settings,) = trained_with
    assert (settings.model_dir, settings.device) == (tmp_path / "model", "cpu")
    assert (settings.redis_url, settings.dtype) == (redis_url, "float32")


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.FAILED, JobStatus.STARTED])
def test_a_job_of_an_older_release_is_replaced_unless_it_runs(
    status: JobStatus, redis_url: str, tmp_path: Path
) -> None:
    database, connection = make(tmp_path, redis_url).database, connect(redis_url)
    number = runs.request(database, connection, "1", "test")
    queue = Queue(TRAINING_QUEUE, connection=connection, serializer="json")
    queue.empty()
    old = queue.enqueue_call("worker.training.run", args=(number,), job_id=f"train-{number}")
    old.set_status(status)
    if status is not JobStatus.QUEUED:
        queue.remove(old)
    runs.requeue(database, connection)
    job_now = queue.fetch_job(f"train-{number}")
    assert job_now is not None
    if status is JobStatus.STARTED:
        assert job_now.func_name == "worker.training.run"
    else:
        assert (job_now.func_name, job_now.args, job_now.retries_left) == (TRAIN, [number], runs.RETRIES)
        assert queue.job_ids == [job_now.id]
    with database.session() as session:
        assert session.get_one(TrainingRun, number).state == "requested"
