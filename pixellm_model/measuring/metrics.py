"""How good masks are: gIoU, cIoU, counts and refusals, with each prediction matched to one truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

HIT = 0.5  # IoU from which a target counts as found


@dataclass
class Scores:
    """Sums over questions; the properties are what is reported.

    gIoU is the mean IoU over masks and cIoU the ratio of summed areas. A truth nobody predicted and a
    prediction without a truth both count as IoU 0, with their area in the union. That differs from the
    reference, where extra predictions are nearly free (specification, section 10.8).
    """

    ious: float = 0.0
    masks: int = 0
    intersection: int = 0
    union: int = 0
    questions: int = 0
    right_counts: int = 0
    absent: int = 0
    refused: int = 0
    predicted: int = 0
    true: int = 0
    hits: int = 0

    def add(self, predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float | None:
        """Add one question's masks, each (H, W) bool; returns its mean IoU, None when it has no mask."""
        self.questions += 1
        self.right_counts += len(predicted) == len(truth)
        if not truth:
            self.absent += 1
            self.refused += not predicted
        intersections, unions = _areas(predicted, truth)
        ious = intersections / np.maximum(unions, 1)
        rows, columns = linear_sum_assignment(-ious)
        self.predicted += len(predicted)
        self.true += len(truth)
        self.hits += int((ious[rows, columns] >= HIT).sum())
        total = float(ious[rows, columns].sum())
        self.intersection += int(intersections[rows, columns].sum())
        self.union += int(unions[rows, columns].sum())
        for left, matched in ((predicted, rows), (truth, columns)):
            self.union += sum(int(mask.sum()) for i, mask in enumerate(left) if i not in set(matched))
        count = max(len(predicted), len(truth))
        self.ious += total
        self.masks += count
        return total / count if count else None

    @property
    def giou(self) -> float:
        return self.ious / max(1, self.masks)

    @property
    def ciou(self) -> float:
        return self.intersection / max(1, self.union)

    @property
    def count_accuracy(self) -> float:
        return self.right_counts / max(1, self.questions)

    @property
    def precision(self) -> float:
        """Share of predicted masks that are HIT or better against the truth they are matched to."""
        return self.hits / max(1, self.predicted)

    @property
    def recall(self) -> float:
        """Share of true masks that such a prediction was found for."""
        return self.hits / max(1, self.true)

    @property
    def none_accuracy(self) -> float:
        """Share of questions about absent things that got no mask."""
        return self.refused / max(1, self.absent)

    def as_dict(self) -> dict[str, float]:
        """All figures; `none_accuracy` only where absent things were asked for."""
        figures = {
            "questions": self.questions,
            "gIoU": round(self.giou, 4),
            "cIoU": round(self.ciou, 4),
            "precision": round(self.precision, 4),
            "recall": round(self.recall, 4),
            "count_accuracy": round(self.count_accuracy, 4),
        }
        return figures | ({"none_accuracy": round(self.none_accuracy, 4)} if self.absent else {})


def _areas(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions of every pair: two (len(predicted), len(truth)) arrays."""
    intersections = np.array([[(p & t).sum() for t in truth] for p in predicted], dtype=np.int64)
    intersections = intersections.reshape(len(predicted), len(truth))
    areas_p = np.array([p.sum() for p in predicted], dtype=np.int64).reshape(-1, 1)
    areas_t = np.array([t.sum() for t in truth], dtype=np.int64).reshape(1, -1)
    return intersections, areas_p + areas_t - intersections
