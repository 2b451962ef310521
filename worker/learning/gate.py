"""Whether a candidate may take the serving version's place: on the same questions, better by more than luck.

Questions of one image are not independent, so images are what is drawn in the bootstrap (Efron and
Tibshirani, 1993): it asks how the mean difference would vary had other images been held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

DRAWS = 10_000
CONFIDENCE = 0.95  # share of draws in which the candidate must be ahead


@dataclass(frozen=True)
class Pair:
    """IoU of both versions on one question; `image` tells which image it belongs to."""

    image: str
    serving: float
    candidate: float


@dataclass(frozen=True)
class Rules:
    """`margin`: the least rise of gIoU on held-out corrections. `regression`: the largest fall on the
    regression set. `min_images`: held-out images below which nothing is decided."""

    margin: float = 0.01
    regression: float = 0.03
    min_images: int = 5


@dataclass(frozen=True)
class Verdict:
    """`promote`, and `why` in a sentence; the figures are means over images of the mean over questions.
    `ahead` is the share of bootstrap draws in which the candidate is better."""

    promote: bool
    why: str
    images: int = 0
    serving: float = 0.0
    candidate: float = 0.0
    ahead: float = 0.0
    low: float = 0.0
    high: float = 0.0
    regression_serving: float = 0.0
    regression_candidate: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(self).items()}


def judge(held_out: Sequence[Pair], regression: Sequence[Pair], rules: Rules, seed: int = 0) -> Verdict:
    """The verdict; the same for the same pairs and seed.

    >>> better = [Pair(str(n), 0.4, 0.5 + n / 100) for n in range(8)]
    >>> judge(better, [Pair("r", 0.8, 0.79)], Rules()).promote
    True
    >>> judge(better[:2], [], Rules()).why
    'too little data: 2 held-out images, 5 are needed'
    """
    ours, theirs = _per_image(held_out, "candidate"), _per_image(held_out, "serving")
    images = len(ours)
    if images < rules.min_images:
        return Verdict(
            False, f"too little data: {images} held-out images, {rules.min_images} are needed", images
        )
    differences = ours - theirs
    rng = np.random.default_rng(seed)
    means = differences[rng.integers(images, size=(DRAWS, images))].mean(1)
    ahead = float((means > 0).mean())
    low, high = (float(np.quantile(means, q)) for q in (1 - CONFIDENCE, CONFIDENCE))
    before = float(_per_image(regression, "serving").mean()) if regression else 0.0
    after = float(_per_image(regression, "candidate").mean()) if regression else 0.0
    rise = float(differences.mean())
    if rise < rules.margin or rise <= 0:
        promote, why = (
            False,
            f"gIoU on held-out corrections changes by {rise:+.3f}, {rules.margin:+g} is needed",
        )
    elif ahead < CONFIDENCE:
        promote, why = (
            False,
            f"{rise:+.3f} on held-out corrections may be chance: ahead in {ahead:.0%} of draws",
        )
    elif (lost := fall(regression)) > rules.regression:
        promote, why = False, f"the regression set falls by {lost:.3f}, {rules.regression:g} is allowed"
    else:
        promote, why = True, f"{rise:+.3f} on {images} held-out images, ahead in {ahead:.0%} of draws"
    return Verdict(
        promote, why, images, float(theirs.mean()), float(ours.mean()), ahead, low, high, before, after
    )


def fall(regression: Sequence[Pair]) -> float:
    """By how much gIoU on the regression set is lower with the candidate."""
    if not regression:
        return 0.0
    return float((_per_image(regression, "serving") - _per_image(regression, "candidate")).mean())


def _per_image(pairs: Sequence[Pair], which: str) -> np.ndarray:
    """(images,) mean IoU of each image's questions, in the order in which images come."""
    found: dict[str, list[float]] = {}
    for pair in pairs:
        found.setdefault(pair.image, []).append(getattr(pair, which))
    return np.array([np.mean(ious) for ious in found.values()])
