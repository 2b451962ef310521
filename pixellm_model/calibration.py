"""A monotone map from a mask's raw score to the measured chance that the mask is right. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixellm_model.errors import CheckpointError

KEY = "score_calibration"  # in a checkpoint's config.json, under "extra"


@dataclass(frozen=True)
class ScoreCalibration:
    """Straight lines between measured points.

    >>> ScoreCalibration(((0.0, 0.0), (0.5, 0.2), (1.0, 0.8)))(0.75)
    0.5

    Attributes:
        points: Pairs of a raw score and the share of masks with it that are right (IoU with the truth at
            least 0.5), both 0..1, increasing.
    """

    points: tuple[tuple[float, float], ...]

    def __call__(self, score: float) -> float:
        """Return the chance that a mask with this raw score is right, 0..1."""
        raw, measured = zip(*self.points, strict=True)
        return float(np.interp(score, raw, measured))

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> ScoreCalibration | None:
        """Read a checkpoint's calibration.

        Args:
            extra: The field `extra` of its config.json.

        Returns:
            The calibration; None if it has none, and then raw scores stay as they are.

        Raises:
            CheckpointError: It is not one.
        """
        if (raw := extra.get(KEY)) is None:
            return None
        try:
            points = tuple((float(score), float(measured)) for score, measured in raw["points"])
        except (KeyError, TypeError, ValueError):
            points = ()
        columns = np.array(points).reshape(-1, 2)
        rises = np.diff(columns, axis=0)
        if len(points) < 2 or not ((columns >= 0) & (columns <= 1)).all() or not (rises >= [1e-9, 0]).all():
            raise CheckpointError(
                f"config.json's {KEY} needs two or more points [score, chance] from 0 to 1 that increase."
            )
        return cls(points)

    def as_json(self, weights: str) -> dict[str, Any]:
        """Return what is stored under KEY.

        Args:
            weights: The fingerprint of the weights that it was measured with.
        """
        return {"points": [list(point) for point in self.points], "weights": weights}
