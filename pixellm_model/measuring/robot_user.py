"""A simulated annotator, as interactive segmentation is measured: clicks go where a mask is most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class SimulatedClick(NamedTuple):
    """Column and row of a pixel, and whether it belongs to the object."""

    x: int
    y: int
    positive: bool


def next_click(
    truth: np.ndarray,
    mask: np.ndarray,
    clicked: Sequence[tuple[int, int]] = (),
    rng: np.random.Generator | None = None,
) -> SimulatedClick | None:
    """The click that a patient annotator would make next.

    Args:
        truth: the object (H, W) bool.
        mask: the current result (H, W) bool.
        clicked: (x, y) of pixels clicked on before; none is clicked on again.
        rng: with one, anywhere in the inner half of the largest error instead of at its centre.

    Returns: the pixel farthest from the edges of the missing or the superfluous part, whichever is thicker;
        None when the mask is right or all that is wrong has been clicked on.
    """
    best: tuple[float, bool, np.ndarray] | None = None
    for positive, wrong in ((True, truth & ~mask), (False, mask & ~truth)):
        depth = _depth(wrong)
        for x, y in clicked:
            depth[y, x] = 0
        deepest = float(depth.max())
        if deepest > 0 and (best is None or deepest > best[0]):
            best = (deepest, positive, depth)
    if best is None:
        return None
    deepest, positive, depth = best
    if rng is None:
        place = int(depth.argmax())
    else:
        inner = np.flatnonzero(depth >= deepest / 2)
        place = int(rng.choice(inner))
    row, column = divmod(place, depth.shape[1])
    return SimulatedClick(column, row, positive)


def _depth(wrong: np.ndarray) -> np.ndarray:
    """How far each pixel of (H, W) bool `wrong` is from its edge, the photo's edge included; 0 outside."""
    depth = np.zeros(wrong.shape)
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    if len(rows):
        part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        depth[part] = ndimage.distance_transform_edt(np.pad(wrong[part], 1))[1:-1, 1:-1]
    return depth


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0
