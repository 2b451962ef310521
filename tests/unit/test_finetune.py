"""Adapters: what they share, what they change, how they are trained and what is refused."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_data import muse_entry, write_muse

from pixellm_model import CheckpointError, Segmenter, adapter, checkpoint
from pixellm_model.__main__ import main
from pixellm_model.engine.segmenter import MINI
from pixellm_model.errors import DataError
from pixellm_model.learning.finetune import Progress, fine_tune
from pixellm_model.learning.recipe import FineTuneRecipe
from pixellm_model.samples import Question, Sample
from support.tiny_model import write_tiny

SCENE = Path(__file__).parents[2] / "demo" / "samples" / "scene_table.jpg"
QUICK = FineTuneRecipe(max_steps=6, batch_size=2, warmup_steps=1, save_steps=2, lr=1e-3)


def samples(count: int = 4) -> list[Sample]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        image = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        mask = np.zeros((40, 60), bool)
        mask[:, : 10 + 5 * number] = True
        image[mask] = 255
        cup = Question("the cup", "cup is {seg}.", (mask,), ("cup",))
        no = Question("the dog", "There is no dog in this image.", (), ())
        found.append(Sample(image, (cup, no)))
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fine_tune(tiny, samples(), QUICK, tmp_path_factory.mktemp("run"), "cpu", quiet=True)


@pytest.mark.slow
def test_a_fresh_adapter_changes_nothing_and_shares_the_base() -> None:
    base = Segmenter.from_pretrained(device="cpu")
    config = adapter.AdapterConfig(base.fingerprint, base.tokenizer.codebook.ids)
    model = adapter.attach(base.model, config)
    with_it = Segmenter(model, base.tokenizer, "tuned", vocabulary=base.vocabulary)
    image = Image.open(SCENE).convert("RGB")
    one, other = (s.segment(image, "the cup and the book") for s in (base, with_it))
    assert one.answer == other.answer and one.targets
    for target, expected in zip(one.targets, other.targets, strict=True):
        assert (target.mask == expected.mask).all()
    known = {p.data_ptr() for p in base.model.parameters()}
    own = [p for p in model.parameters() if p.data_ptr() not in known]
    assert {id(p) for p in own} == {id(p) for p in adapter.trained(model).values()}
    assert not any(p.requires_grad for p in base.model.parameters())


def test_versions_live_side_by_side_and_the_base_stays_as_it_was(tiny: Path, trained: Path) -> None:
    base = Segmenter.from_pretrained(tiny, device="cpu")
    image = Image.fromarray(samples()[0].image)
    before = base.segment(image, "the cup", max_new_tokens=12).answer
    before_tuning = {name: value.clone() for name, value in base.model.state_dict().items()}
    tuned = base.with_adapter(trained, "v1")
    assert tuned.version == base.version + "+v1"
    tuned.segment(image, "the cup", max_new_tokens=12)
    again = base.with_adapter(trained, "v1")
    assert (
        tuned.segment(image, "the cup", max_new_tokens=12).answer
        == again.segment(image, "the cup", max_new_tokens=12).answer
    )
    assert base.segment(image, "the cup", max_new_tokens=12).answer == before
    assert all(torch.equal(value, before_tuning[name]) for name, value in base.model.state_dict().items())


def test_the_run_leaves_an_adapter_its_recipe_and_its_log(tiny: Path, trained: Path) -> None:
    run = trained.parent
    assert json.loads((run / "recipe.json").read_text())["max_steps"] == 6
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    tensors = load_file(trained / adapter.WEIGHTS)
    assert not any("vision_tower" in name or name.endswith("embed_tokens.weight") for name in tensors)
    assert any("lora_A" in name for name in tensors) and "model.embed_tokens.rows" in tensors
    base, _ = checkpoint.load(tiny)
    loaded = adapter.load(base, checkpoint.fingerprint(tiny), trained)
    lora_b = [p for name, p in adapter.trained(loaded).items() if "lora_B" in name]
    assert any(p.abs().sum() > 0 for p in lora_b)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(tiny: Path, tmp_path: Path) -> None:
    uninterrupted = fine_tune(tiny, samples(), QUICK, tmp_path / "whole", "cpu", quiet=True)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "sys.path[:0] = sys.argv[3:]\n"
        "from test_finetune import QUICK, samples, fine_tune\n"
        "def die(p):\n"
        "    if p.step == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fine_tune(Path(sys.argv[1]), samples(), QUICK, Path(sys.argv[2]), 'cpu', progress=die, quiet=True)\n"
    )
    here, tests = Path(__file__).parent, Path(__file__).parents[1]
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            str(tiny),
            str(tmp_path / "killed"),
            str(here),
            str(tests),
            str(tests.parent),
        ]
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter").exists()
    progress: list[Progress] = []
    resumed = fine_tune(
        tiny, samples(), QUICK, tmp_path / "killed", "cpu", progress=progress.append, quiet=True
    )
    assert progress[0].step == 3, "from the checkpoint of step 2"
    one, other = (load_file(folder / adapter.WEIGHTS) for folder in (uninterrupted, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_off_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    fine_tune(tiny, samples(), replace(QUICK, max_steps=4), tmp_path, "cpu", quiet=True)
    (tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").unlink()
    seen: list[Progress] = []
    fine_tune(tiny, samples(), QUICK, tmp_path, "cpu", progress=seen.append, quiet=True)
    assert [p.step for p in seen] == [3, 4, 5, 6]


def test_pause_is_called_before_each_step(tiny: Path, tmp_path: Path) -> None:
    paused: list[float] = []
    seen: list[Progress] = []
    fine_tune(
        tiny,
        samples(),
        QUICK,
        tmp_path,
        "cpu",
        progress=seen.append,
        pause=lambda: paused.append(time.monotonic()),
        quiet=True,
    )
    assert len(paused) == 6 and seen[-1] == Progress(6, 6, seen[-1].loss, 0.0)
    assert seen[0].seconds_left is not None and seen[0].seconds_left > 0


@pytest.mark.slow
def test_training_teaches(tmp_path: Path) -> None:
    """The mini learns a name for a thing it never saw, on the picture it is taught on."""
    photo = np.array(Image.open(SCENE).convert("RGB").resize((300, 200)))
    mask = np.zeros((200, 300), bool)
    mask[20:180, 150:290] = True
    sample = Sample(photo, (Question("the cup", "cup is {seg}.", (mask,), ("cup",)),))
    recipe = FineTuneRecipe(max_steps=20, batch_size=1, warmup_steps=2, lr=1e-3, dice_weight=1.0)
    folder = fine_tune(None, [sample], recipe, tmp_path, "cpu", quiet=True)
    base = Segmenter.from_pretrained(device="cpu")

    def iou(segmenter: Segmenter) -> float:
        found = np.zeros(mask.shape, bool)
        for target in segmenter.segment(Image.fromarray(photo), "the cup").targets:
            found |= target.mask
        return float((found & mask).sum() / (found | mask).sum())

    assert iou(base.with_adapter(folder)) > iou(base) + 0.3
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["dice"] < 0.5 * log[0]["dice"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / adapter.CONFIG).unlink(), "does not describe an adapter"),
        (lambda folder: (folder / adapter.CONFIG).write_text('{"format": 9}'), "another format"),
        (lambda folder: (folder / adapter.WEIGHTS).write_bytes(b"x" * 40), "cannot be read"),
        (lambda folder: _change(folder, base="0000"), "belongs to the base 0000"),
        (lambda folder: _change(folder, codebook=[10**9]), "tokens that its base does not have"),
        (lambda folder: _change(folder, lora_r=4), "does not fit"),
        (lambda folder: _drop(folder), "1 tensors such as model.embed_tokens.rows differ"),
    ],
)
def test_what_is_no_adapter_of_this_base_is_refused(
    tiny: Path, trained: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    for file in (adapter.CONFIG, adapter.WEIGHTS):
        (tmp_path / file).write_bytes((trained / file).read_bytes())
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        Segmenter.from_pretrained(tiny, device="cpu").with_adapter(tmp_path)


def _change(folder: Path, **fields: object) -> None:
    values = json.loads((folder / adapter.CONFIG).read_text())
    (folder / adapter.CONFIG).write_text(json.dumps(values | fields))


def _drop(folder: Path) -> None:
    tensors = load_file(folder / adapter.WEIGHTS)
    del tensors["model.embed_tokens.rows"]
    save_file(tensors, folder / adapter.WEIGHTS)


def test_a_run_that_cannot_work_says_why(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        fine_tune(tiny, [], QUICK, tmp_path, "cpu")
    with pytest.raises(FloatingPointError, match="not finite"):
        fine_tune(tiny, samples(), replace(QUICK, lr=1e30), tmp_path / "nan", "cpu", quiet=True)
    assert not (tmp_path / "nan" / "adapter").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"speed": 1}', "has 'speed'"),
        ('{"lr": "x"}', "give a number"),
        ('{"lr": null}', "give a number"),
        ('{"epochs": true}', "give a number"),
        ('{"max_drawn": false}', "give a number"),
        ("[", "be read"),
    ],
)
def test_a_recipe_file_with_an_unusable_value_says_which(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        FineTuneRecipe.from_file(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", math.inf),
        ("max_steps", -2),
        ("batch_size", 0),
        ("accumulation", 0),
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", math.nan),
        ("warmup_steps", -1),
        ("lora_r", 0),
        ("lora_dropout", 1.5),
        ("max_targets", 0),
        ("max_drawn", 0),
        ("save_steps", 0),
        ("seed", -1),
        ("bce_weight", -1.0),
    ],
)
def test_a_recipe_with_a_value_out_of_range_names_the_field(
    field: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=f"'{field}' is {value}"):
        FineTuneRecipe(**{field: value})
    (tmp_path / "recipe.json").write_text(json.dumps({field: value}))
    data = write_muse(tmp_path / "data", muse_entry())
    run = ["--data", str(data), "--out", str(tmp_path / "run"), "--recipe", str(tmp_path / "recipe.json")]
    assert main(["train", *run]) == 2
    assert f"'{field}' is {value}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_may_use_null_and_truth_values_where_the_field_does(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"bf16": true, "max_drawn": null, "refine": true, "epochs": 3}')
    recipe = FineTuneRecipe.from_file(tmp_path / "recipe.json")
    assert (recipe.bf16, recipe.max_drawn, recipe.refine, recipe.epochs) == (True, None, True, 3)


@pytest.mark.slow
def test_the_command_trains_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_muse(tmp_path / "data", muse_entry(), 5)
    (tmp_path / "recipe.json").write_text('{"max_steps": 2, "warmup_steps": 0}')
    run = ["--data", str(data), "--out", str(tmp_path / "run"), "--recipe", str(tmp_path / "recipe.json")]
    assert main(["train", *run, "--lr", "1e-4"]) == 0
    printed = capsys.readouterr()
    assert "2 steps of 2" in printed.out and "left out: record 1" in printed.err
    folder = tmp_path / "run" / "adapter"
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 0.3 * (MINI / "model.safetensors").stat().st_size
    assert main(["evaluate", "--data", str(data), "--adapter", str(folder)]) == 0
    assert "+adapter" in capsys.readouterr().out
