"""A candidate against the version that serves: the same questions to both, a table, the gate's verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixellm_model import Segmenter
from pixellm_model.adapter import interpolate
from pixellm_model.data import SampleSet, read_samples
from pixellm_model.measuring.evaluation import Evaluation, evaluate
from worker.learning.gate import Pair, Rules, Verdict, fall, judge
from worker.settings import WorkerSettings
from worker.store.dataset import Snapshot

REGRESSION = Path(__file__).parent / "regression"
# Shares of what was learned, tried in this order until the regression set allows one.
SHARES = (1.0, 0.7, 0.5, 0.3)
TABLE = "samples.json"


class Trial:
    """One trial of `base` with a new adapter against `serving`. `pause` is called before each question."""

    def __init__(
        self,
        settings: WorkerSettings,
        base: Segmenter,
        serving: Segmenter,
        snapshot: Snapshot,
        pause: Callable[[], None],
    ) -> None:
        self._rules = Rules(settings.gate_margin, settings.gate_regression, settings.gate_min_held_out)
        self._base, self._serving, self._pause = base, serving, pause
        self._regression = _read(settings.regression_data or REGRESSION, None)
        self._held_out = _read(snapshot.folder, "held_out") if snapshot.held_out else None

    def best_of(self, folder: Path, out: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
        """The adapter of `folder` with the largest share of what it learned that the regression set allows;
        the verdict on it, and figures with the table of questions beside it.

        The share is chosen on the regression set only, so that the held-out corrections judge one candidate.
        """
        before = self._evaluated(self._serving, self._regression)
        for share in SHARES:
            softened = out / f"adapter-{round(100 * share)}"
            interpolate(self._base.model, folder, share, softened)
            candidate = self._base.with_adapter(softened, f"{folder.parent.name}-{round(100 * share)}")
            after = self._evaluated(candidate, self._regression)
            regression = _pairs(self._regression, before, after)
            if fall(regression) <= self._rules.regression:
                break
        metrics: dict[str, Any] = {"share": share, "regression": _figures(before, after)}
        rows = _rows("regression", self._regression, before, after)
        held_out: list[Pair] = []
        if self._held_out is not None:
            before = self._evaluated(self._serving, self._held_out)
            after = self._evaluated(candidate, self._held_out)
            held_out = _pairs(self._held_out, before, after)
            metrics["held_out"] = _figures(before, after)
            rows += _rows("held_out", self._held_out, before, after)
        verdict: Verdict = judge(held_out, regression, self._rules)
        (softened / TABLE).write_text(json.dumps(rows, indent=1) + "\n")
        return softened, verdict.as_json() | {"rules": asdict(self._rules)}, metrics

    def _evaluated(self, segmenter: Segmenter, samples: SampleSet) -> Evaluation:
        return evaluate(segmenter, samples, watch=lambda *_: self._pause())


def _read(path: Path, split: str | None) -> SampleSet:
    samples = read_samples(path, split=split)
    assert isinstance(samples, SampleSet)
    return samples


def _pairs(samples: SampleSet, before: Evaluation, after: Evaluation) -> list[Pair]:
    return [
        Pair(samples.records[one.sample].image.name, one.iou, other.iou)
        for one, other in zip(before.questions, after.questions, strict=True)
    ]


def _figures(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    return {"serving": before.figures(), "candidate": after.figures()}


def _rows(kind: str, samples: SampleSet, before: Evaluation, after: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "set": kind,
            "image": samples.records[one.sample].image.name,
            "question": one.question,
            "expected": one.expected,
            "serving": {"answer": one.answer, "iou": round(one.iou, 4)},
            "candidate": {"answer": other.answer, "iou": round(other.iou, 4)},
        }
        for one, other in zip(before.questions, after.questions, strict=True)
    ]
