"""Changes of a mask without clicks: a step inwards or outwards, and clicks that stand for its object."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from pixellm_model.clicks.points import Click
from pixellm_model.masks import mask_box
from pixellm_model.samples import Mask

Adjustment = Literal["tighter", "looser", "whole"]

# The step is the same all along the border: on COCO objects whose masks were made too large or too small, a
# guided filter that follows the photo's edges came out worse.
STEP = 0.02  # how far a border moves, as a share of the square root of the mask's area
MAX_DISTANCES = 2**20  # pixels that distances are computed of; larger masks are reduced first
NUM_CLICKS = 5
CORE = 0.3  # clicks lie at least so deep inside, as a share of the deepest place


def moved_border(mask: Mask, outwards: bool) -> Mask:
    """Move the border of a mask by STEP, at least by a pixel.

    Args:
        mask: (H, W) bool, not empty; it is not changed.
        outwards: Whether it grows.

    Returns:
        The larger or smaller mask; the deepest place always stays inside.
    """
    step = max(1.0, STEP * float(np.count_nonzero(mask)) ** 0.5)
    rows, columns = _surroundings(mask, int(step) + 2)
    window = mask[rows, columns]
    result = mask.copy()
    if outwards:
        result[rows, columns] = _distances(~window) <= step
    else:
        inside = _distances(window)
        result[rows, columns] = inside > min(step, inside.max() - 1)
    return result | mask if outwards else result & mask


def clicks_inside(mask: Mask) -> list[Click]:
    """Choose points deep inside a mask and far from each other, the deepest first.

    Args:
        mask: (H, W) bool, not empty.

    Returns:
        At most NUM_CLICKS positive clicks.
    """
    rows, columns = _surroundings(mask, 1)
    depth = _distances(mask[rows, columns])
    y, x = np.nonzero(depth >= max(1.0, CORE * depth.max()))
    chosen = int(np.argmax(depth[y, x]))
    clicks: list[Click] = []
    distance = np.full(len(y), np.inf)
    while len(clicks) < NUM_CLICKS and distance[chosen] > 0:
        clicks.append(Click(int(columns.start + x[chosen]), int(rows.start + y[chosen])))
        distance = np.minimum(distance, np.hypot(y - y[chosen], x - x[chosen]))
        chosen = int(distance.argmax())
    return clicks


def _surroundings(mask: Mask, margin: int) -> tuple[slice, slice]:
    """The rows and columns of a mask's box with a margin around it, inside the image."""
    x0, y0, x1, y1 = mask_box(mask)
    return slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin)


def _distances(mask: Mask) -> npt.NDArray[np.float32]:
    """The distance of each pixel inside a mask to the nearest one outside; 0 outside."""
    factor = int(np.ceil((mask.size / MAX_DISTANCES) ** 0.5))
    reduced = mask[::factor, ::factor]
    if reduced.all():
        return np.full(mask.shape, max(mask.shape), np.float32)
    distances = ndimage.distance_transform_edt(reduced).astype(np.float32) * factor
    if factor == 1:
        return distances
    height, width = mask.shape
    enlarged = Image.fromarray(distances).resize((width, height), Image.Resampling.BILINEAR)
    return np.where(mask, np.asarray(enlarged), 0)
