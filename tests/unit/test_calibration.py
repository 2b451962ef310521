"""Calibrated scores: how they are fitted, stored, read and used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixellm_model import Segmenter, checkpoint
from pixellm_model.__main__ import main
from pixellm_model.calibration import KEY, ScoreCalibration
from pixellm_model.engine.segmenter import MINI
from pixellm_model.errors import CheckpointError, DataError
from pixellm_model.measuring.calibration import (
    cross_fitted,
    expected_calibration_error,
    fit_calibration,
    fit_reported,
)
from pixellm_model.measuring.metrics import Scores
from support.tiny_model import write_tiny

SAMPLES = Path(__file__).parents[2] / "demo" / "samples"


def overconfident(count: int, seed: int) -> list[tuple[float, bool]]:
    """Scores of a model that is right with the square of its score."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, count)
    return [(float(score), bool(rng.random() < score**2)) for score in scores]


def columns(pairs: list[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [score for score, _ in pairs], [hit for _, hit in pairs]


def test_the_map_finds_what_scores_are_worth() -> None:
    fitted = fit_calibration(*columns(overconfident(5000, 0)))
    for score in (0.1, 0.5, 0.9):
        assert fitted(score) == pytest.approx(score**2, abs=0.05)
    scores, right = columns(overconfident(5000, 1))
    before = expected_calibration_error(scores, right)
    after = expected_calibration_error([fitted(score) for score in scores], right)
    assert before > 0.12 and after < 0.03


@pytest.mark.parametrize("decimals", [0, 1, 2, 8])
@pytest.mark.parametrize("scale", [1.0, 0.00001])
def test_any_map_keeps_the_order_and_can_be_stored(decimals: int, scale: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = (rng.uniform(0, 1, 150) ** rng.integers(1, 5) * scale).round(decimals)
        fitted = fit_calibration(list(scores), list(rng.random(150) < rng.random()))
        raw, shares = np.array(fitted.points).T
        assert (np.diff(raw) > 0).all() and (np.diff(shares) >= 0).all() and fitted(0) == 0
        assert ScoreCalibration.from_extra({KEY: json.loads(json.dumps(fitted.as_json("0")))}) == fitted


def test_each_half_is_calibrated_by_the_other() -> None:
    certain, doubtful = [(0.9, True)] * 200, [(0.9, False)] * 200
    ((*scores,),) = cross_fitted([certain + doubtful])
    assert max(scores[:200]) < 0.1 and min(scores[200:]) > 0.9
    calibration, lines = fit_reported({"photos": overconfident(400, 2), "scenes": overconfident(400, 3)})
    assert lines[0].startswith("photos: 400 masks") and calibration.points[0] == (0, 0)


def test_too_few_masks_are_refused() -> None:
    with pytest.raises(DataError, match="Only 99 masks"):
        fit_calibration([0.5] * 99, [True] * 99)
    with pytest.raises(DataError, match="Only 0 masks"):
        fit_reported({"data": []})


def test_scores_of_extra_and_matched_masks_are_told_apart() -> None:
    left, right = (np.zeros((4, 8), bool) for _ in range(2))
    left[:, :4], right[:, 4:] = True, True
    scores = Scores()
    scores.add([left, right], [right], [0.8, 0.6])
    scores.add([left], [], [0.7])
    assert scores.scored == [(0.8, False), (0.6, True), (0.7, False)]
    assert scores.as_dict()["calibration_error"] == pytest.approx((0.8 + 0.4 + 0.7) / 3, abs=1e-4)


@pytest.mark.parametrize(
    "points",
    [[], [[0, 0]], [[0, 0], [0, 1]], [[0, 0.5], [1, 0.4]], [[0, 0], [1, 2]], [[0, "x"], [1, 1]], 3, None],
)
def test_a_broken_calibration_is_told_when_the_model_is_loaded(tmp_path: Path, points: object) -> None:
    folder = write_tiny(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"extra": {KEY: {"points": points}}}))
    with pytest.raises(CheckpointError, match="score_calibration needs two or more points"):
        Segmenter.from_pretrained(folder, device="cpu")


def test_a_stored_calibration_changes_scores_and_version_only(tmp_path: Path) -> None:
    photo = Image.open(SAMPLES / "scene_table.jpg").convert("RGB")
    raw = Segmenter.from_pretrained(device="cpu")
    raw.model.config = raw.model.config.with_raw_scores()
    folder = tmp_path / "mini"
    folder.mkdir()
    for path in MINI.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text((MINI / "config.json").read_text())
    checkpoint.calibrate(folder, ScoreCalibration(((0.0, 0.0), (1.0, 0.5))))
    calibrated = Segmenter.from_pretrained(folder, device="cpu")
    assert calibrated.version != raw.version
    one, other = (segmenter.segment(photo, "the cup and the book") for segmenter in (raw, calibrated))
    assert one.answer == other.answer and one.targets
    for before, after in zip(one.targets, other.targets, strict=True):
        assert (before.mask == after.mask).all() and after.score == pytest.approx(before.score / 2)


def test_the_shipped_calibration_was_measured_with_the_shipped_weights() -> None:
    stored = checkpoint.read_config(MINI)["extra"][KEY]
    assert stored["weights"] == checkpoint.weights_fingerprint(MINI), (
        "run python -m recipes.pixellm_mini.score_calibration --write"
    )


def test_the_command_names_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--model", str(MINI), "--data", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
    published = tmp_path / "published"
    published.mkdir()
    config = {"model_type": "llava", "vocab_size": 9, "hidden_size": 64, "num_hidden_layers": 1}
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="pixellm_model convert"):
        checkpoint.calibrate(published, ScoreCalibration(((0.0, 0.0), (1.0, 0.5))))
