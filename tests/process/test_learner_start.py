"""The learner at its start: the settings of its trainings, and the jobs that an older release queued."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_collect import NOWHERE, make

import worker.__main__ as command_line
from worker.jobs.queue import connect
from worker.learning import job
from worker.learning.process import TrainingWorker
from worker.settings import WorkerSettings
from worker.store import runs


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
    monkeypatch.setattr(job, "_settings", None, raising=False)
    monkeypatch.setattr(job, "Retraining", Recorder)
    monkeypatch.setattr(TrainingWorker, "work", work)
    flags = ["--model", str(tmp_path / "model"), "--device", "cpu", "--redis-url", redis_url]
    assert command_line.main(["learn", *flags]) == 0
    (settings,) = trained_with
    assert (settings.model_dir, settings.device) == (tmp_path / "model", "cpu")
    assert (settings.redis_url, settings.dtype) == (redis_url, "float32")
