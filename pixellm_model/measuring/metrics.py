"""Mask metrics: gIoU, cIoU, precision, recall and counts, with each prediction matched to one truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from pixellm_model.measuring.calibration import expected_calibration_error
from pixellm_model.samples import Mask

HIT = 0.5  # IoU from which a target counts as found
IntArray = npt.NDArray[np.int64]


@dataclass
class IouSums:
    """Sums from which gIoU and cIoU are computed.

    Attributes:
        ious: Sum of IoUs.
        masks: Number of masks they are averaged over.
        intersection: Sum of intersections in pixels.
        union: Sum of unions in pixels.
    """

    ious: float = 0.0
    masks: int = 0
    intersection: float = 0.0
    union: float = 0.0

    @property
    def giou(self) -> float:
        """Mean IoU over masks, 0..1."""
        return self.ious / max(1, self.masks)

    @property
    def ciou(self) -> float:
        """Summed intersections over summed unions, 0..1."""
        return self.intersection / max(1, self.union)


@dataclass
class Scores(IouSums):
    """Sums over questions; the properties are what is reported.

    A missed truth and an extra prediction both count as IoU 0, with their area in the union. That differs
    from the reference, where extra predictions are nearly free (`muse_metric`).

    >>> scores = Scores()
    >>> left, right = np.array([[True, False]]), np.array([[False, True]])
    >>> scores.add([left, right], [right])
    0.5
    >>> scores.as_dict()
    {'questions': 1, 'gIoU': 0.5, 'cIoU': 0.5, 'precision': 0.5, 'recall': 1.0, 'count_accuracy': 0.0}

    Attributes:
        questions: Number of questions.
        correct_counts: Questions answered with the true number of masks.
        absent: Questions without a true mask.
        correct_refusals: Those of them answered without a mask.
        predicted: Number of predicted masks.
        true: Number of true masks.
        hits: Pairs of a predicted and a true mask with IoU >= HIT.
        scored: Score of each predicted mask, and whether it is one of a pair counted in `hits`.
    """

    questions: int = 0
    correct_counts: int = 0
    absent: int = 0
    correct_refusals: int = 0
    predicted: int = 0
    true: int = 0
    hits: int = 0
    scored: list[tuple[float, bool]] = field(default_factory=list)

    def add(
        self, predicted: Sequence[Mask], truth: Sequence[Mask], scores: Sequence[float] = ()
    ) -> float | None:
        """Add one question.

        Args:
            predicted: The predicted masks, each (H, W) bool.
            truth: The true masks, of the same size.
            scores: The score of each predicted mask, 0..1; none if they are not to be measured.

        Returns:
            The question's mean IoU over max(predictions, truths) masks; None if there are none.
        """
        self.questions += 1
        self.correct_counts += len(predicted) == len(truth)
        if not truth:
            self.absent += 1
            self.correct_refusals += not predicted
        intersections, unions = _areas(predicted, truth)
        ious = intersections / np.maximum(unions, 1)
        rows, columns = linear_sum_assignment(-ious)
        self.predicted += len(predicted)
        self.true += len(truth)
        right = set(rows[ious[rows, columns] >= HIT])
        self.hits += len(right)
        self.scored += [(float(score), index in right) for index, score in enumerate(scores)]
        total = float(ious[rows, columns].sum())
        self.intersection += int(intersections[rows, columns].sum())
        self.union += int(unions[rows, columns].sum())
        for masks, matched in ((predicted, set(rows)), (truth, set(columns))):
            self.union += sum(int(mask.sum()) for i, mask in enumerate(masks) if i not in matched)
        count = max(len(predicted), len(truth))
        self.ious += total
        self.masks += count
        return total / count if count else None

    @property
    def count_accuracy(self) -> float:
        """Share of questions answered with the true number of masks."""
        return self.correct_counts / max(1, self.questions)

    @property
    def precision(self) -> float:
        """Share of predicted masks whose IoU with the truth they are matched to is at least HIT."""
        return self.hits / max(1, self.predicted)

    @property
    def recall(self) -> float:
        """Share of true masks matched to a prediction with IoU at least HIT."""
        return self.hits / max(1, self.true)

    @property
    def none_accuracy(self) -> float:
        """Share of questions without a true mask that were answered without a mask."""
        return self.correct_refusals / max(1, self.absent)

    def as_dict(self) -> dict[str, float]:
        """All metrics, rounded.

        `none_accuracy` only if there are questions without a true mask, `calibration_error` if there are
        scores.
        """
        figures = {
            "questions": self.questions,
            "gIoU": round(self.giou, 4),
            "cIoU": round(self.ciou, 4),
            "precision": round(self.precision, 4),
            "recall": round(self.recall, 4),
            "count_accuracy": round(self.count_accuracy, 4),
        }
        if self.absent:
            figures["none_accuracy"] = round(self.none_accuracy, 4)
        if self.scored:
            scores, right = zip(*self.scored, strict=True)
            figures["calibration_error"] = expected_calibration_error(scores, right)
        return figures


def _areas(predicted: Sequence[Mask], truth: Sequence[Mask]) -> tuple[IntArray, IntArray]:
    """Intersections and unions of every pair: two (len(predicted), len(truth)) arrays."""
    intersections = np.array([[(p & t).sum() for t in truth] for p in predicted], dtype=np.int64)
    intersections = intersections.reshape(len(predicted), len(truth))
    areas_p = np.array([p.sum() for p in predicted], dtype=np.int64).reshape(-1, 1)
    areas_t = np.array([t.sum() for t in truth], dtype=np.int64).reshape(1, -1)
    return intersections, areas_p + areas_t - intersections
