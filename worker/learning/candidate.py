"""Evaluates a candidate against the serving version: the same questions to both, then the verdict."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixellm_model import Segmenter
from pixellm_model.adapter import interpolate
from pixellm_model.data import SampleSet, read_samples
from pixellm_model.errors import DataError
from pixellm_model.measuring.evaluation import Evaluation, evaluate
from worker.learning.gate import Pair, Rules, judge, regression_loss
from worker.settings import WorkerSettings
from worker.store.dataset import Snapshot
from worker.store.registry import QUESTIONS

log = logging.getLogger(__name__)

REGRESSION = Path(__file__).parent / "regression"
# Shares of what was learned, tried in this order until the regression set allows one.
SHARES = (1.0, 0.7, 0.5, 0.3)


@dataclass(frozen=True)
class Evaluated:
    """A candidate and what was found about it.

    Attributes:
        folder: The candidate's adapter, and QUESTIONS: a table of every question and both answers.
        verdict: The gate's `Verdict` and its rules, as JSON values.
        metrics: Figures of serving version and candidate on each set, and the share that was chosen.
    """

    folder: Path
    verdict: dict[str, Any]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _Candidate:
    share: float
    folder: Path
    segmenter: Segmenter
    regression: Evaluation


class CandidateEvaluation:
    """Evaluates a new adapter of a base model against the version that serves."""

    def __init__(
        self,
        settings: WorkerSettings,
        base: Segmenter,
        serving: Segmenter,
        snapshot: Snapshot,
        pause: Callable[[], None],
    ) -> None:
        """Read the data sets.

        Args:
            settings: The gate's rules and the regression set.
            base: The base model.
            serving: The version that serves now.
            snapshot: The frozen corrections; the held-out ones are measured on.
            pause: Called before each question; may block, to leave the device to others.

        Raises:
            DataError: A data set cannot be read.
        """
        self._rules = Rules(settings.gate_margin, settings.gate_regression, settings.gate_min_held_out)
        self._base, self._serving, self._pause = base, serving, pause
        self._regression = read_readable(settings.regression_data or REGRESSION, None)
        self._held_out = read_readable(snapshot.folder, "held_out") if snapshot.held_out else None

    def choose_share(self, adapter_folder: Path, out: Path) -> Evaluated:
        """Choose how much of what an adapter learned is kept, and judge the result.

        The adapter's weights are interpolated with the base's (Wortsman et al., "Robust fine-tuning of
        zero-shot models", 2022). The largest share that the regression set allows is chosen, without a look
        at the held-out corrections: they judge one candidate only.

        Args:
            adapter_folder: The fine-tuned adapter.
            out: Folder for the interpolated adapters.

        Returns:
            The candidate with the chosen share, the verdict on it and its figures.
        """
        before = self._evaluate(self._serving, self._regression)
        candidate = self._choose(adapter_folder, out, before)
        metrics = {"share": candidate.share, "regression": _figures(before, candidate.regression)}
        rows = _rows("regression", self._regression, before, candidate.regression)
        regression = _pairs(self._regression, before, candidate.regression)
        held_out: list[Pair] = []
        if self._held_out is not None:
            before = self._evaluate(self._serving, self._held_out)
            after = self._evaluate(candidate.segmenter, self._held_out)
            held_out = _pairs(self._held_out, before, after)
            metrics["held_out"] = _figures(before, after)
            rows += _rows("held_out", self._held_out, before, after)
        verdict = judge(held_out, regression, self._rules)
        (candidate.folder / QUESTIONS).write_text(json.dumps(rows, indent=1) + "\n")
        return Evaluated(candidate.folder, verdict.as_json() | {"rules": asdict(self._rules)}, metrics)

    def _choose(self, adapter_folder: Path, out: Path, before: Evaluation) -> _Candidate:
        """The candidate with the largest share that the regression set allows, else with the smallest."""
        for share in SHARES:
            percent = round(100 * share)
            folder = out / f"adapter-{percent}"
            interpolate(self._base.model, adapter_folder, share, folder)
            segmenter = self._base.with_adapter(folder, f"{adapter_folder.parent.name}-{percent}")
            candidate = _Candidate(share, folder, segmenter, self._evaluate(segmenter, self._regression))
            pairs = _pairs(self._regression, before, candidate.regression)
            if regression_loss(pairs) <= self._rules.regression:
                break
        return candidate

    def _evaluate(self, segmenter: Segmenter, samples: SampleSet) -> Evaluation:
        return evaluate(segmenter, samples, on_answer=lambda *_: self._pause())


def read_readable(path: Path, split: str | None) -> SampleSet:
    """Read the records of a data set whose images can be read.

    Args:
        path: The data set.
        split: Only records of this split.

    Raises:
        DataError: The data set cannot be read.
    """
    samples = read_samples(path, split=split)
    assert isinstance(samples, SampleSet)
    # Evaluations number what they can read: with these records left out, those are the records' numbers.
    readable = []
    for record in samples.records:
        try:
            record.sample()
        except DataError as error:
            log.warning("left out of the evaluation: %s", error)
        else:
            readable.append(record)
    return SampleSet(readable, samples.skipped)


def _pairs(samples: SampleSet, before: Evaluation, after: Evaluation) -> list[Pair]:
    return [
        Pair(samples.records[serving.sample].image.name, serving.iou, candidate.iou)
        for serving, candidate in zip(before.questions, after.questions, strict=True)
    ]


def _figures(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    return {"serving": before.figures(), "candidate": after.figures()}


def _rows(kind: str, samples: SampleSet, before: Evaluation, after: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "set": kind,
            "image": samples.records[serving.sample].image.name,
            "question": serving.question,
            "expected": serving.expected,
            "serving": {"answer": serving.answer, "iou": round(serving.iou, 4)},
            "candidate": {"answer": candidate.answer, "iou": round(candidate.iou, 4)},
        }
        for serving, candidate in zip(before.questions, after.questions, strict=True)
    ]
