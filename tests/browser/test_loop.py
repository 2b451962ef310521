"""The whole loop with a real Label Studio, a real queue and the mini: prompts, corrections, training, gate,
promotion, better masks. Wrong corrections are rejected, and a rollback restores exactly the earlier masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backend.label_studio.brush_rle import decode, encode
from demo import proof, samples
from demo.environment import ROOT
from demo.stack import Ports, Stack
from support.annotations import CHOSEN_NOTHING_ELSE
from support.signs import Scene, draw
from support.workers import eventually
from worker.settings import WorkerSettings
from worker.store import Database
from worker.store.dataset import split_of
from worker.store.registry import Registry
from worker.store.tables import Correction, TrainingRun

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
CONFIG = """
<View>
  <TextArea name="prompt" toName="image" editable="true" maxSubmissions="1" smart="true" smartOnly="true"/>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Sign"/><Label value="Lamp"/></BrushLabels>
  <TextArea name="answer" toName="image" smart="false"/>
  <Choices name="nothing_else" toName="image"><Choice value="Nothing more to mark"/></Choices>
</View>"""
PROMPT = "the sign"
SCENES = 26
TRAINING_S = 600.0


@dataclass
class Loop:
    """A running product, and what the test does to it."""

    stack: Stack
    settings: WorkerSettings
    scenes: list[Scene]

    def project(self, title: str) -> tuple[int, int]:
        label_studio = self.stack.label_studio
        project = label_studio.create_project(title, CONFIG, [scene.file for scene in self.scenes])
        return project, label_studio.attach(project, self.stack.backend_url)

    def ask(self, project: int, backend: int, scene: Scene) -> tuple[int, list[dict[str, Any]]]:
        task = self.stack.label_studio.task_of(project, scene.file)
        return task, list(proof.ask(self.stack.label_studio, backend, task, PROMPT).regions)

    def correct(self, project: int, backend: int, scene: Scene, truth: np.ndarray) -> int:
        """Asks, and submits `truth` in place of what came."""
        task, regions = self.ask(project, backend, scene)
        if regions:
            (first, *_) = regions
            first["value"]["rle"] = encode(truth)
            first["value"]["brushlabels"] = ["Sign"]
            first["origin"] = "prediction-changed"
        else:
            first = drawn(truth)
        return self.stack.label_studio.annotate(task, [first, CHOSEN_NOTHING_ELSE])

    def corrections(self, project: int) -> list[Correction]:
        with Database(self.settings).session() as session:
            query = select(Correction).where(Correction.project == str(project))
            return list(session.scalars(query))

    def runs(self, project: int) -> list[TrainingRun]:
        with Database(self.settings).session() as session:
            query = select(TrainingRun).where(TrainingRun.project == str(project)).order_by(TrainingRun.id)
            return list(session.scalars(query))

    def train(self, project: int, backend: int) -> TrainingRun:
        """Presses the button and waits for the verdict."""
        before = len(self.runs(project))
        self.stack.label_studio.train(backend)
        eventually(lambda: len(self.runs(project)) == before + 1, "the training is seen", 2)
        eventually(
            lambda: self.runs(project)[-1].state not in ("requested", "running"), "a verdict", TRAINING_S
        )
        return self.runs(project)[-1]


def drawn(mask: np.ndarray) -> dict[str, Any]:
    height, width = mask.shape
    return {
        "id": "drawn",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(mask), "brushlabels": ["Sign"]},
        "origin": "manual",
    }


def found(regions: list[dict[str, Any]], scene: Scene) -> float:
    """IoU of all masks together with the sign."""
    union = np.zeros_like(scene.sign)
    for region in regions:
        union |= decode(region["value"]["rle"], *scene.sign.shape)
    return float((union & scene.sign).sum() / (union | scene.sign).sum())


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("loop")
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({"max_steps": 40, "batch_size": 4, "lr": 4e-4, "warmup_steps": 5}))
    (folder / "scenes").mkdir()
    stack = Stack(folder / "stack", Ports(0, 0), RETRAIN_RECIPE=str(recipe), RETRAIN_EVERY="0")
    try:
        stack.start()
        settings = WorkerSettings(data_dir=stack.data, redis_url=stack.redis_url)
        yield Loop(stack, settings, draw(folder / "scenes", SCENES))
    finally:
        stack.stop()


def test_corrections_become_a_better_version(loop: Loop) -> None:
    project, backend = loop.project("Signs")
    for scene in loop.scenes[:-1]:
        loop.correct(project, backend, scene, scene.sign)
    eventually(lambda: len(loop.corrections(project)) == SCENES - 1, "all corrections are understood", 60)
    every = loop.corrections(project)
    assert {one.status for one in every} == {"labelled"}
    assert all(one.turns[0]["targets"][0]["label"] == "Sign" for one in every)
    held_out = sum(split_of(one.image or "") == "held_out" for one in every)
    assert 5 <= held_out < SCENES / 2

    # The last scene is in no correction.
    unseen = loop.scenes[-1]
    task, before = loop.ask(project, backend, unseen)
    run = loop.train(project, backend)
    assert run.state == "promoted", (run.error, run.verdict)
    assert run.verdict and run.verdict["candidate"] > run.verdict["serving"] + 0.2
    assert run.data and run.data["held_out"] == held_out

    _, after = loop.ask(project, backend, unseen)
    assert found(after, unseen) > max(0.8, found(before, unseen) - 0.05)

    # Label Studio knows the new version by name, and its predictions carry it.
    label_studio = loop.stack.label_studio
    eventually(
        lambda: label_studio.project(project)["model_version"] == run.version, "the version's name", 60
    )
    (row,) = [one for one in label_studio.tasks(project) if one["id"] == task]
    assert row["total_predictions"] == 1

    registry = Registry(loop.settings)
    pointer = registry.serving_pointer(str(project))
    assert pointer is not None and pointer.adapter is not None
    done = command(loop, "versions", "rollback", "--project", str(project))
    assert "the base" in done
    _, restored = loop.ask(project, backend, unseen)
    assert [region["value"] for region in restored] == [region["value"] for region in before]

    command(loop, "versions", "promote", pointer.adapter, "--project", str(project))
    _, again = loop.ask(project, backend, unseen)
    assert [region["value"] for region in again] == [region["value"] for region in after]


def test_a_version_trained_on_wrong_masks_is_rejected(loop: Loop) -> None:
    """With masks of other images the training loss falls, but held-out images do not get better."""
    project, backend = loop.project("Wrong masks")
    for scene, other in zip(loop.scenes[:-1], np.roll(np.arange(SCENES - 1), 7), strict=True):
        loop.correct(project, backend, scene, loop.scenes[other].sign)
    eventually(lambda: len(loop.corrections(project)) == SCENES - 1, "all corrections are understood", 60)
    _, before = loop.ask(project, backend, loop.scenes[-1])
    run = loop.train(project, backend)
    assert run.state == "rejected" and run.verdict and not run.verdict["promote"], run.error
    assert Registry(loop.settings).serving_pointer(str(project)) is None
    _, after = loop.ask(project, backend, loop.scenes[-1])
    assert [region["value"] for region in after] == [region["value"] for region in before]
    assert run.verdict["why"] in command(loop, "versions", "list")


def test_copies_of_predictions_and_masks_that_may_be_forgotten_teach_nothing(loop: Loop) -> None:
    label_studio = loop.stack.label_studio
    config = CONFIG.replace("Sign", "Book")
    project = label_studio.create_project("Copies", config, samples.images())
    backend = label_studio.attach(project, loop.stack.backend_url)
    task = label_studio.task_of(project, samples.PROVED)
    assert proof.ask(label_studio, backend, task, "the book").regions
    for result in ([], [CHOSEN_NOTHING_ELSE]):
        label_studio.annotate(task, result)
    eventually(lambda: len(loop.corrections(project)) == 2, "both are understood", 60)
    empty, denied = sorted(loop.corrections(project), key=lambda one: int(one.annotation))
    assert not empty.turns and "may only have been forgotten" in (empty.reason or "")
    assert [turn["targets"] for turn in denied.turns] == [[]]

    label_studio.act(project, "retrieve_tasks_predictions")
    eventually(
        lambda: any(row["total_predictions"] for row in label_studio.tasks(project)), "predictions", 120
    )
    label_studio.act(project, "predictions_to_annotations")
    eventually(lambda: len(loop.corrections(project)) > 2, "the copies are understood", 60)
    by_id = {one.annotation: one for one in loop.corrections(project)}
    copies = [one for number, one in by_id.items() if number not in (empty.annotation, denied.annotation)]
    assert {one.status for one in copies} <= {"unseen", "empty"} and any(o.status == "unseen" for o in copies)
    assert not any(one.turns for one in copies)


def test_what_was_missed_is_found_and_what_was_deleted_is_gone(loop: Loop) -> None:
    """The last test: it stops the backend."""
    project, backend = loop.project("Missed")
    label_studio = loop.stack.label_studio
    kept, dropped, changed = (loop.correct(project, backend, scene, scene.sign) for scene in loop.scenes[:3])
    eventually(lambda: len(loop.corrections(project)) == 3, "three corrections", 60)
    label_studio.delete(dropped)
    eventually(
        lambda: sum(one.status == "deleted" for one in loop.corrections(project)) == 1, "the deletion", 30
    )
    loop.stack.stop_backend()
    missed = label_studio.annotate(
        label_studio.task_of(project, loop.scenes[3].file), [drawn(loop.scenes[3].sign)]
    )
    label_studio.update(changed, [drawn(loop.scenes[2].sign), drawn(loop.scenes[4].sign)])
    label_studio.delete(kept)
    environment = loop.stack.environment()
    said = subprocess.run(
        [sys.executable, "-m", "backend", "reconcile", "--project", str(project)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"taken": 2, "deleted": 1, "failed": 0' in said.stdout
    now = {one.annotation: one for one in loop.corrections(project)}
    assert now[str(missed)].turns[0]["prompt"] == "Segment the sign."
    assert len(now[str(changed)].turns[0]["targets"]) == 2
    assert now[str(kept)].status == now[str(dropped)].status == "deleted" and not now[str(kept)].turns


def command(loop: Loop, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        cwd=ROOT,
        env=os.environ | loop.stack.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
