"""The gate: a candidate replaces the serving version only if it is better, and not by chance.

Both answer the same questions. Questions about one image are not independent, so the bootstrap (Efron and
Tibshirani, 1993) resamples images: it estimates how the mean difference would vary with other images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

BOOTSTRAP_DRAWS = 10_000
CONFIDENCE = 0.95  # share of draws in which the candidate must be ahead


@dataclass(frozen=True)
class Pair:
    """The IoU of both versions on one question about `image`."""

    image: str
    serving: float
    candidate: float


@dataclass(frozen=True)
class Rules:
    """What a candidate must achieve.

    Attributes:
        margin: The least rise of gIoU on held-out corrections.
        regression: The largest fall of gIoU on the regression set.
        min_images: With fewer held-out images nothing is promoted.
    """

    margin: float = 0.01
    regression: float = 0.03
    min_images: int = 5


@dataclass(frozen=True)
class Verdict:
    """The gate's decision. IoU figures are means over images of the mean over an image's questions.

    Attributes:
        promote: Whether the candidate may serve.
        why: The reason, in one sentence.
        images: The number of held-out images.
        serving: gIoU of the serving version on them.
        candidate: gIoU of the candidate on them.
        ahead: Share of bootstrap draws in which the candidate is better.
        low: Lower bound of the difference in the bootstrap (5 %).
        high: Upper bound of the difference in the bootstrap (95 %).
        regression_serving: gIoU of the serving version on the regression set.
        regression_candidate: gIoU of the candidate on the regression set.
    """

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
        """The fields as JSON values, rounded to four decimals."""
        return {key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(self).items()}


def judge(held_out: Sequence[Pair], regression: Sequence[Pair], rules: Rules, seed: int = 0) -> Verdict:
    """Decide about a candidate; deterministic for the same arguments.

    >>> better = [Pair(str(n), 0.4, 0.5 + n / 100) for n in range(8)]
    >>> judge(better, [Pair("r", 0.8, 0.79)], Rules()).promote
    True
    >>> judge(better[:2], [], Rules()).why
    'too little data: 2 held-out images, 5 are needed'

    Args:
        held_out: Questions about held-out corrections.
        regression: Questions of the regression set.
        rules: What the candidate must achieve.
        seed: Of the bootstrap.

    Returns:
        The verdict.
    """
    candidate, serving = (
        _per_image(held_out, attrgetter("candidate")),
        _per_image(held_out, attrgetter("serving")),
    )
    images = len(candidate)
    if images < rules.min_images:
        return Verdict(
            False, f"too little data: {images} held-out images, {rules.min_images} are needed", images
        )
    differences = candidate - serving
    rng = np.random.default_rng(seed)
    means = differences[rng.integers(images, size=(BOOTSTRAP_DRAWS, images))].mean(1)
    ahead = float((means > 0).mean())
    low, high = (float(np.quantile(means, q)) for q in (1 - CONFIDENCE, CONFIDENCE))
    promote, why = _decide(float(differences.mean()), ahead, regression_loss(regression), images, rules)
    return Verdict(
        promote,
        why,
        images,
        float(serving.mean()),
        float(candidate.mean()),
        ahead,
        low,
        high,
        float(_per_image(regression, attrgetter("serving")).mean()) if regression else 0.0,
        float(_per_image(regression, attrgetter("candidate")).mean()) if regression else 0.0,
    )


def _decide(gain: float, ahead: float, loss: float, images: int, rules: Rules) -> tuple[bool, str]:
    """Whether to promote, and why."""
    if gain < rules.margin or gain <= 0:
        return False, f"gIoU on held-out corrections changes by {gain:+.3f}, {rules.margin:+g} is needed"
    if ahead < CONFIDENCE:
        return False, f"{gain:+.3f} on held-out corrections may be chance: ahead in {ahead:.0%} of draws"
    if loss > rules.regression:
        return False, f"the regression set falls by {loss:.3f}, {rules.regression:g} is allowed"
    return True, f"{gain:+.3f} on {images} held-out images, ahead in {ahead:.0%} of draws"


def regression_loss(regression: Sequence[Pair]) -> float:
    """How much lower gIoU on the regression set is with the candidate; negative when it is higher."""
    if not regression:
        return 0.0
    return float(
        (
            _per_image(regression, attrgetter("serving")) - _per_image(regression, attrgetter("candidate"))
        ).mean()
    )


def _per_image(pairs: Sequence[Pair], iou: Callable[[Pair], float]) -> npt.NDArray[np.float64]:
    """(images,) mean IoU of each image's questions, in the order of first appearance."""
    ious: dict[str, list[float]] = {}
    for pair in pairs:
        ious.setdefault(pair.image, []).append(iou(pair))
    return np.array([np.mean(values) for values in ious.values()])
