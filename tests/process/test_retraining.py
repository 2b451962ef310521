"""Training runs of a real learner on a tiny random model: killed, failing, unnecessary and paused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select
from test_collect import NOWHERE, make, process_all, send

from pixellm_model.learning.finetune import Progress
from support.annotations import drawn, event
from support.tiny_model import write_tiny
from support.workers import ROOT, eventually, question
from worker.jobs.queue import SegmentQueue, connect
from worker.learning.job import Retraining
from worker.learning.project_lock import ProjectLock
from worker.learning.recipe import ReplayMix, hash_of_files, recipe_for
from worker.settings import WorkerSettings
from worker.store import Database, dataset, runs
from worker.store.registry import Registry
from worker.store.tables import TrainingRun

IMAGES = 12
VERDICT_S = 180.0


@dataclass
class Learner:
    """`python -m worker learn` on a tiny model, and the project of twelve corrections it learns from."""

    folder: Path
    redis_url: str
    process: subprocess.Popen[bytes]
    settings: WorkerSettings

    def request(self) -> int:
        made = make(self.folder, self.redis_url)
        return runs.request(made.database, connect(self.redis_url), "1", "test")

    def run(self, number: int) -> TrainingRun:
        with make(self.folder, self.redis_url).database.session() as session:
            return session.scalars(select(TrainingRun).where(TrainingRun.id == number)).one()

    def verdict(self, number: int) -> TrainingRun:
        eventually(lambda: self.run(number).state not in runs.OPEN, "a verdict", VERDICT_S)
        return self.run(number)

    def child(self) -> int | None:
        """The process that trains."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        return int(found.stdout.split()[0]) if found.stdout.split() else None

    @property
    def log(self) -> str:
        return (self.folder / "learner.log").read_text()


def few_scenes(folder: Path) -> Path:
    """Two of the regression set's scenes: a random model's answers are long."""
    shipped = ROOT / "worker" / "learning" / "regression"
    records = json.loads((shipped / "dataset.json").read_text())[:2]
    (folder / "images").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(records))
    for record in records:
        shutil.copy(shipped / "images" / record["file_name"], folder / "images")
    return folder


@pytest.fixture
def learner(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Learner]:
    recipe = {"max_steps": 30, "batch_size": 2, "save_steps": 5, "lr": 1e-3} | getattr(request, "param", {})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    environment = {
        "REDIS_URL": redis_url,
        "DATA_DIR": str(tmp_path / "data"),
        "MODEL_DIR": str(write_tiny(tmp_path / "tiny")),
        "RETRAIN_RECIPE": str(tmp_path / "recipe.json"),
        "DEVICE": "cpu",
        "REGRESSION_DATA": str(few_scenes(tmp_path / "scenes")),
        "GATE_MIN_HELD_OUT": "1",
    }
    with (tmp_path / "learner.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "learn"], cwd=ROOT, env=os.environ | environment, stderr=log
        )
    try:
        yield Learner(tmp_path, redis_url, process, WorkerSettings(data_dir=tmp_path / "data"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # the second one ends a training that is under way
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def corrected(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> Learner:
    from backend.corrections import jobs

    made = make(learner.folder, learner.redis_url, retrain_every=0)
    monkeypatch.setattr(jobs, "get_collector", lambda: made)
    send(made, *(event(number, [drawn(2 + number % 8)]) for number in range(1, IMAGES + 1)))
    process_all(made)
    return learner


def test_a_killed_run_goes_on_where_it_was(corrected: Learner) -> None:
    number = corrected.request()
    eventually(lambda: (corrected.run(number).step or 0) >= 8, "some steps", 120)
    child = corrected.child()
    assert child is not None
    os.kill(child, signal.SIGKILL)
    run = corrected.verdict(number)
    assert run.state in ("promoted", "rejected"), run.error
    (log,) = (corrected.folder / "data" / "training" / "runs").glob("*/log.jsonl")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps[-1] == 30 and steps.count(1) == 1, "it did not begin anew"
    assert run.version and run.verdict and run.data
    manifest = Registry(corrected.settings).manifest(run.version.partition("+")[2])
    assert manifest.verdict == run.verdict and manifest.snapshot == run.data["snapshot"]
    assert manifest.project == "1" and manifest.recipe["max_steps"] == 30
    table = json.loads(
        (Registry(corrected.settings).verified_folder(manifest.adapter) / "samples.json").read_text()
    )
    assert {row["set"] for row in table} == {"held_out", "regression"}

    again = corrected.verdict(corrected.request())
    assert again.state == "skipped" and "same corrections already" in (again.error or "")

    # As if it had been killed between the publication and the promotion, and the gate had said yes.
    promote(corrected, manifest.adapter)
    with make(corrected.folder, corrected.redis_url).database.session() as session:
        row = session.get_one(TrainingRun, number)
        row.state, row.error = "failed", "its process was ended 4 times"
    finished = corrected.verdict(corrected.request())
    assert (finished.state, finished.version) == ("promoted", run.version), finished.error
    pointer = Registry(corrected.settings).serving_pointer("1")
    assert pointer and pointer.adapter == manifest.adapter
    later = corrected.verdict(corrected.request())
    assert later.state == "skipped", "it is finished once"


def promote(learner: Learner, adapter: str) -> None:
    """Make the gate's decision on a version a promotion."""
    path = learner.settings.data_dir / "versions" / adapter / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["verdict"] |= {"promote": True, "why": "better"}
    path.write_text(json.dumps(manifest))


def is_running(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return bool(found.stdout.strip()) and not found.stdout.strip().startswith("Z")


@pytest.mark.parametrize("learner", [{"max_steps": 5000}], indirect=True)
def test_no_training_outlives_its_learner(corrected: Learner) -> None:
    number = corrected.request()
    eventually(lambda: bool(corrected.run(number).step), "some steps", VERDICT_S)
    child = corrected.child()
    assert child is not None
    corrected.process.kill()
    corrected.process.wait()
    eventually(lambda: not is_running(child), "the training ends too", 10)


def test_without_corrections_there_is_nothing_to_do(learner: Learner) -> None:
    run = learner.verdict(learner.request())
    assert run.state == "skipped" and "no corrections" in (run.error or "")


def test_what_no_gate_could_judge_is_not_trained(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.corrections import jobs

    made = make(tmp_path, redis_url, retrain_every=0)
    monkeypatch.setattr(jobs, "get_collector", lambda: made)
    send(made, *(event(number, [drawn()]) for number in range(1, 7)))
    process_all(made)
    number = runs.request(made.database, made.connection, "1", "test")
    settings = WorkerSettings(data_dir=made.settings.data_dir, redis_url=redis_url)
    lock = ProjectLock(made.connection, "1")
    assert Retraining(settings, made.database, made.connection, "1", number, lock).run() == "skipped"
    with made.database.session() as session:
        run = session.get_one(TrainingRun, number)
    assert run.error and run.error.startswith("too little data") and "GATE_MIN_HELD_OUT" in run.error
    assert run.data and run.data["train"] + run.data["held_out"] == 6 and not run.step
    assert not list(tmp_path.rglob("snapshots/*/images")), "pictures are the store's alone"


@pytest.mark.parametrize("learner", [{"lr": 1e30}], indirect=True)
def test_a_run_that_fails_says_why_and_changes_nothing(corrected: Learner) -> None:
    run = corrected.verdict(corrected.request())
    assert run.state == "failed" and "lower the learning rate" in (run.error or "")
    assert Registry(corrected.settings).versions() == []
    assert Registry(corrected.settings).serving_pointer("1") is None


@pytest.mark.parametrize("learner", [{"max_steps": 4000}], indirect=True)
def test_training_pauses_while_a_prompt_waits(corrected: Learner) -> None:
    number = corrected.request()
    eventually(lambda: (corrected.run(number).step or 0) >= 3, "some steps", 120)
    queue = SegmentQueue(WorkerSettings(redis_url=corrected.redis_url))
    queue.enqueue(question("somebody waits"))  # no worker serves it
    time.sleep(2.0)
    before = corrected.run(number).step
    time.sleep(2.5)
    assert corrected.run(number).step == before
    connect(corrected.redis_url).delete("rq:queue:pixellm-interactive")
    eventually(lambda: (corrected.run(number).step or 0) > (before or 0), "it goes on", 30)


def test_a_run_goes_on_while_database_and_redis_are_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = WorkerSettings(
        data_dir=tmp_path, redis_url=NOWHERE, database_url="postgresql://nobody@127.0.0.1:1/none"
    )
    connection = connect(NOWHERE)
    run = Retraining(settings, Database(settings), connection, "1", 1, ProjectLock(connection, "1"))
    run._progress(Progress(step=3, steps=9, loss=0.5, seconds_left=4.0))
    run._yield_to_annotators()
    assert "training 1 goes on" in caplog.text


def test_a_deleted_picture_fails_no_training(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.corrections import jobs

    made = make(tmp_path, redis_url, retrain_every=0)
    monkeypatch.setattr(jobs, "get_collector", lambda: made)
    send(made, *(event(number, [drawn()]) for number in range(1, 4)))
    process_all(made)
    corrections = dataset.corrections_of(made.database, "1")
    assert corrections[0].image
    made.blobs.delete(corrections[0].image)
    snapshot = dataset.freeze(corrections, made.blobs, tmp_path / "snapshots")
    assert snapshot.train + snapshot.held_out == 2
    assert len(list((snapshot.folder / "images").iterdir())) == 2
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [snapshot.hash]


def test_other_replay_data_is_something_new_to_learn(tmp_path: Path) -> None:
    scenes = few_scenes(tmp_path / "scenes")
    before = hash_of_files(scenes)
    assert hash_of_files(scenes) == before
    (scenes / "dataset.json").write_text("[]")
    assert hash_of_files(scenes) != before != hash_of_files(scenes / "dataset.json")


def test_the_version_is_known_without_loading_the_model(tmp_path: Path) -> None:
    from pixellm_model import Segmenter, checkpoint
    from pixellm_model.engine.segmenter import MINI

    folder = write_tiny(tmp_path / "tiny")
    assert checkpoint.version(folder) == Segmenter.from_pretrained(folder, "cpu").version
    assert checkpoint.version(MINI).startswith("pixellm-mini-")


def test_an_unreadable_picture_does_not_shift_the_table(tmp_path: Path) -> None:
    from worker.learning.candidate import read_readable

    scenes = few_scenes(tmp_path / "scenes")
    first, second = json.loads((scenes / "dataset.json").read_text())
    broken = scenes / "images" / first["file_name"]
    broken.write_bytes(broken.read_bytes()[:5000])
    samples = read_readable(scenes, None)
    assert [record.image.name for record in samples.records] == [second["file_name"]]


def test_replay_alternates_with_corrections() -> None:
    mixed = ReplayMix(["a", "b", "c"], ["x", "y"])  # type: ignore[list-item]  # texts stand for samples
    assert [mixed[n] for n in range(len(mixed))] == ["a", "x", "b", "y", "c", "x"]


def test_steps_grow_with_data_within_bounds() -> None:
    assert recipe_for(10, None).max_steps == 60
    assert recipe_for(100, None).max_steps == 250
    assert recipe_for(10**6, None).max_steps == 2000
