"""How far scores are from the share of right masks, and the map that makes them meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pixellm_model.calibration import ScoreCalibration
from pixellm_model.errors import DataError

BINS = 10
LEAST_MASKS = 100  # to fit a calibration
LEAST_IN_GROUP = 20
DECIMALS = 4


def expected_calibration_error(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Return the mean distance of scores from the share of right masks, over BINS equal intervals of scores.

    Args:
        scores: A score for each mask, 0..1.
        right: Whether each mask is right.

    Returns:
        0..1, weighted by the number of masks in each interval; 0 without masks.

    >>> expected_calibration_error([0.9, 0.9, 0.1], [True, False, False])
    0.3
    """
    if not len(scores):
        return 0.0
    values, hits = np.asarray(scores, float), np.asarray(right, float)
    bins = np.minimum((values * BINS).astype(int), BINS - 1)
    distances = np.bincount(bins, values - hits, BINS)
    return round(float(np.abs(distances).sum() / len(values)), DECIMALS)


def fit_calibration(scores: Sequence[float], right: Sequence[bool]) -> ScoreCalibration:
    """Fit the monotone map from scores to the share of right masks.

    Masks are put into groups of like scores; neighbouring groups are joined until the shares increase
    (isotonic regression). Between the groups' means the map is linear.

    Args:
        scores: The raw score of each mask, 0..1.
        right: Whether each mask is right.

    Returns:
        The map; it increases strictly, except where a share would exceed 1, so that it keeps the order of
        masks.

    Raises:
        DataError: There are fewer than LEAST_MASKS masks.
    """
    if len(scores) < LEAST_MASKS:
        raise DataError(
            f"Only {len(scores)} masks were predicted; a calibration needs {LEAST_MASKS} or more."
        )
    order = np.argsort(scores, kind="stable")
    values, hits = np.asarray(scores, float)[order], np.asarray(right, float)[order]
    num_groups = min(BINS, len(values) // LEAST_IN_GROUP)
    groups: list[npt.NDArray[np.float64]] = []  # each: number of masks, sum of scores, number of right ones
    for part in np.array_split(np.arange(len(values)), num_groups):
        group = np.array([len(part), values[part].sum(), hits[part].sum()])
        while groups and (_share(groups[-1]) >= _share(group) or _mean(groups[-1]) >= _mean(group)):
            group = groups.pop() + group
        groups.append(group)
    points = [(0.0, 0.0), *((_mean(group), _share(group)) for group in groups if _mean(group) > 0)]
    if points[-1][0] < 1:
        (low, low_share), (high, high_share) = [(0.0, 0.0), *points][-2:]
        slope = (high_share - low_share) / (high - low) if high > low else 1.0
        points.append((1.0, round(min(1.0, high_share + slope * (1 - high)), DECIMALS)))
    return ScoreCalibration(tuple(points))


def cross_fitted(parts: Sequence[Sequence[tuple[float, bool]]]) -> list[list[float]]:
    """Calibrate the scores of each half of the data by the other half, to measure what that is worth.

    Args:
        parts: Pairs of a score and whether its mask is right, for each kind of data; those of one image stand
            together.

    Returns:
        The calibrated scores, in the same form.

    Raises:
        DataError: A half has fewer than LEAST_MASKS masks.
    """
    middles = [len(part) // 2 for part in parts]
    halves = [
        [part[:middle] for part, middle in zip(parts, middles, strict=True)],
        [part[middle:] for part, middle in zip(parts, middles, strict=True)],
    ]
    by_first, by_second = (
        fit_calibration(
            [score for part in half for score, _ in part], [hit for part in half for _, hit in part]
        )
        for half in halves
    )
    return [
        [by_second(score) for score, _ in part[:middle]] + [by_first(score) for score, _ in part[middle:]]
        for part, middle in zip(parts, middles, strict=True)
    ]


def fit_reported(kinds: Mapping[str, Sequence[tuple[float, bool]]]) -> tuple[ScoreCalibration, list[str]]:
    """Fit a calibration to all data, and say what it is worth on data left out of the fit.

    Args:
        kinds: For each kind of data, pairs of a raw score and whether its mask is right.

    Returns:
        The calibration, and a line for each kind and for the points.

    Raises:
        DataError: Too few masks were predicted.
    """
    calibrated = cross_fitted(list(kinds.values()))
    lines = []
    for (kind, pairs), fitted in zip(kinds.items(), calibrated, strict=True):
        scores, right = [score for score, _ in pairs], [hit for _, hit in pairs]
        raw_error, error = (expected_calibration_error(values, right) for values in (scores, fitted))
        lines.append(
            f"{kind}: {len(pairs)} masks, {sum(right)} right; calibration error {raw_error:.3f} raw, "
            f"{error:.3f} calibrated (each half by the other)"
        )
    pairs = [pair for part in kinds.values() for pair in part]
    calibration = fit_calibration([score for score, _ in pairs], [hit for _, hit in pairs])
    lines.append("points: " + ", ".join(f"{raw:.3f} -> {share:.3f}" for raw, share in calibration.points))
    return calibration, lines


def _mean(group: npt.NDArray[np.float64]) -> float:
    return round(float(group[1] / group[0]), DECIMALS)


def _share(group: npt.NDArray[np.float64]) -> float:
    """The share of right masks; never quite 0 or 1, which so few masks cannot show."""
    return round(float((group[2] + 0.5) / (group[0] + 1)), DECIMALS)
