"""The reference's MUSE evaluation against its recorded output, and next to the corrected metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pixellm_model.measuring.metrics import Scores
from pixellm_model.measuring.muse_metric import MuseScores

RECORDED = Path(__file__).parents[3] / "shared" / "muse_metric"
Question = tuple[np.ndarray, np.ndarray]
needs_recording = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded evaluation is not here")


def scenarios() -> dict[str, list[Question]]:
    tensors = load_file(RECORDED / "muse_metric.safetensors")
    found: dict[str, list[Question]] = {}
    for key in sorted(tensors):
        name, _, kind = key.split("/")
        if kind == "gt":
            logits = tensors.get(key.replace("/gt", "/pred_logits"))
            truths = tensors[key]
            found.setdefault(name, []).append(
                (np.zeros((0, *truths.shape[1:])) if logits is None else logits, truths)
            )
    return found


def scores() -> MuseScores:
    return MuseScores(rng=np.random.default_rng(0))


@needs_recording
def test_every_recorded_scenario_is_matched_flaw_included() -> None:
    recorded = json.loads((RECORDED / "muse_metric.json").read_text())
    overall, asked = scores(), scenarios()
    assert set(asked) == set(recorded["per_scenario_alone"])
    for name, expected in recorded["per_scenario_alone"].items():
        alone = scores()
        assert alone.add(asked[name]) == pytest.approx(expected["giou"], abs=1e-5)
        assert alone.ciou == pytest.approx(expected["ciou"], abs=1e-5)
        pairs = [pair for question in asked[name] for pair in alone.pairs(*question)]
        truth = [(i[1], u[1]) for i, u in expected["pairs_intersection_union_[bg,fg]"]]
        assert sorted(pairs) == sorted(truth)
        overall.add(asked[name])
    assert overall.giou == pytest.approx(recorded["overall"]["giou_foreground"], abs=1e-5)
    assert overall.ciou == pytest.approx(recorded["overall"]["ciou_foreground"], abs=1e-5)


@needs_recording
def test_the_corrected_metric_counts_an_extra_mask_as_an_error() -> None:
    corrected = Scores()
    for logits, truths in scenarios()["missing_in_q1_extra_in_q2"]:
        corrected.add(list(logits > 0), list(truths > 0))
    assert corrected.giou < 0.7  # the reference says 0.94


def test_an_extra_confident_mask_is_free_in_the_reference() -> None:
    truth = np.zeros((1, 8, 8), bool)
    truth[0, :4] = True
    sure = np.where(truth, 5.0, -5.0)
    with_extra = np.concatenate([sure, np.full((1, 8, 8), 5.0)])
    assert scores().add([(with_extra, truth)]) == pytest.approx(1.0, abs=1e-5)
    assert scores().add([(np.zeros((0, 8, 8)), truth)]) == 0.0
