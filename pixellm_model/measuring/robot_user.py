"""A robot user, with which interactive segmentation is measured: it clicks where a mask is most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pixellm_model.samples import Mask


class SimulatedClick(NamedTuple):
    """A click on a pixel.

    Attributes:
        x: Its column.
        y: Its row.
        positive: Whether the pixel belongs to the object.
    """

    x: int
    y: int
    positive: bool


def next_click(
    truth: Mask,
    mask: Mask,
    clicked: Sequence[tuple[int, int]] = (),
    rng: np.random.Generator | None = None,
) -> SimulatedClick | None:
    """Click into the missing or the superfluous part, whichever is thicker (Xu et al., 2016).

    Args:
        truth: The object's true mask (H, W).
        mask: The current mask (H, W).
        clicked: (x, y) of earlier clicks; these pixels are not clicked on again.
        rng: Draws a pixel of the inner half of the part; None takes the one farthest from its edges.

    Returns:
        The click; None when the mask is right or every wrong pixel has been clicked on.
    """
    best: tuple[float, bool, npt.NDArray[np.float64]] | None = None
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
    inner = np.flatnonzero(depth >= deepest / 2)
    index = int(depth.argmax()) if rng is None else int(rng.choice(inner))
    row, column = divmod(index, depth.shape[1])
    return SimulatedClick(column, row, positive)


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two masks of one size; 1 if both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def _depth(wrong: Mask) -> npt.NDArray[np.float64]:
    """Distance in pixels of each set pixel of (H, W) from an unset one or the photo's edge; 0 where unset."""
    depth = np.zeros(wrong.shape)
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    if len(rows):
        bounds = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        depth[bounds] = ndimage.distance_transform_edt(np.pad(wrong[bounds], 1))[1:-1, 1:-1]
    return depth
