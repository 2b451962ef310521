"""The reference's evaluation on MUSE, flaw included, so that its figures can be compared with published ones.

Specification section 10.8. Predictions are matched to truths on random points; a truth nobody predicted is
compared with an empty mask; but a prediction without a truth is compared as raw logits with an empty truth,
by a histogram over 0..1, so that only logits in 0.5..1 count against it: a confident extra mask scores IoU 1.
`metrics.Scores` is the honest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

POINTS = 12544


@dataclass
class MuseScores:
    """Sums over images; add each image's questions together."""

    points: np.random.Generator
    ious: float = 0.0
    masks: int = 0
    intersection: float = 0.0
    union: float = 0.0

    def add(self, questions: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        """Add one image: of each question the logits (P, H, W) and the true masks (T, H, W). Returns the mean
        IoU over the greater number of its predictions and truths, as the reference counts it."""
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

    def pairs(self, logits: np.ndarray, truths: np.ndarray) -> list[tuple[float, float]]:
        """Foreground intersection and union of every pair the reference forms for one question."""
        truths = truths.astype(bool)
        rows, columns = self._matched(logits, truths)
        found = [_areas(logits[r] > 0, truths[c]) for r, c in zip(rows, columns, strict=True)]
        found += [(0.0, float(truths[c].sum())) for c in range(len(truths)) if c not in columns]
        for row in range(len(logits)):
            if row not in rows:  # raw logits in the histogram's upper half count as area, others do not
                found.append((0.0, float(((logits[row] >= 0.5) & (logits[row] <= 1)).sum())))
        return found

    @property
    def giou(self) -> float:
        return self.ious / max(1, self.masks)

    @property
    def ciou(self) -> float:
        return self.intersection / (self.union + 1e-10)

    def _matched(self, logits: np.ndarray, truths: np.ndarray) -> tuple[list[int], list[int]]:
        if not len(logits) or not len(truths):
            return [], []
        rows = self.points.integers(0, truths.shape[1], POINTS)
        columns = self.points.integers(0, truths.shape[2], POINTS)
        said = logits[:, rows, columns].astype(np.float64)  # (P, points)
        true = truths[:, rows, columns].astype(np.float64)  # (T, points)
        positive, negative = np.logaddexp(0, -said), np.logaddexp(0, said)
        bce = (positive @ true.T + negative @ (1 - true).T) / POINTS
        p = 1 / (1 + np.exp(-said))
        dice = 1 - (2 * p @ true.T + 1) / (p.sum(1)[:, None] + true.sum(1)[None] + 1)
        matched, partners = linear_sum_assignment(bce + dice)
        return matched.tolist(), partners.tolist()


def _areas(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    return float((predicted & truth).sum()), float((predicted | truth).sum())
