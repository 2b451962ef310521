"""The reference's MUSE metric with its flaw, to compare with published numbers.

Predictions are matched to truths on random points. A missed truth is compared with an empty mask. The flaw:
an extra prediction is compared with an empty truth as raw logits, by a histogram over 0..1, so only logits in
0.5..1 count against it, and a confident extra mask has IoU 1. `metrics.Scores` counts it as an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from pixellm_model.measuring.metrics import IouSums
from pixellm_model.samples import Mask

POINTS = 12544  # random points per question on which masks are matched
Logits = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]


@dataclass(kw_only=True)
class MuseScores(IouSums):
    """Sums over images.

    Attributes:
        rng: Draws the points on which masks are matched.
    """

    rng: np.random.Generator

    def add(self, questions: Sequence[tuple[Logits, BoolArray]]) -> float:
        """Add one image.

        Args:
            questions: Per question, the logits (P, H, W) of the predicted masks and the true masks (T, H, W).

        Returns:
            The image's mean IoU over max(predictions, truths) masks of all questions, as the reference
            counts.
        """
        total = 0.0
        for logits, truths in questions:
            for intersection, union in self.pairs(logits, truths):
                total += 1.0 if union == 0 else intersection / (union + 1e-5)
                self.intersection += intersection
                self.union += union
        predicted = sum(len(logits) for logits, _ in questions)
        count = max(predicted, sum(len(truths) for _, truths in questions))
        self.ious += total
        self.masks += count
        return total / count if count else 0.0

    def pairs(self, logits: Logits, truths: BoolArray) -> list[tuple[float, float]]:
        """Intersection and union in pixels of every pair that the reference forms for one question."""
        truths = truths.astype(bool)
        rows, columns = self._matched(logits, truths)
        areas = [_areas(logits[r] > 0, truths[c]) for r, c in zip(rows, columns, strict=True)]
        areas += [(0.0, float(truths[c].sum())) for c in range(len(truths)) if c not in columns]
        for row in range(len(logits)):
            if row not in rows:  # the flaw: only raw logits in the histogram's upper half count as area
                areas.append((0.0, float(((logits[row] >= 0.5) & (logits[row] <= 1)).sum())))
        return areas

    def _matched(self, logits: Logits, truths: BoolArray) -> tuple[list[int], list[int]]:
        if not len(logits) or not len(truths):
            return [], []
        rows = self.rng.integers(0, truths.shape[1], POINTS)
        columns = self.rng.integers(0, truths.shape[2], POINTS)
        sampled = logits[:, rows, columns].astype(np.float64)  # (P, points)
        true = truths[:, rows, columns].astype(np.float64)  # (T, points)
        positive, negative = np.logaddexp(0, -sampled), np.logaddexp(0, sampled)
        bce = (positive @ true.T + negative @ (1 - true).T) / POINTS
        p = 1 / (1 + np.exp(-sampled))
        dice = 1 - (2 * p @ true.T + 1) / (p.sum(1)[:, None] + true.sum(1)[None] + 1)
        matched, partners = linear_sum_assignment(bce + dice)
        return matched.tolist(), partners.tolist()


def _areas(predicted: Mask, truth: Mask) -> tuple[float, float]:
    return float((predicted & truth).sum()), float((predicted | truth).sum())
