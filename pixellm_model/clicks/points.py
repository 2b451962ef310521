"""What an annotator points at: clicks, and a box, in pixels of the photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixellm_model.errors import ClickError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Click:
    """A point of the photo, `x` pixels from its left and `y` from its top edge, that lies on the object
    (`positive`) or off it. Fractions of a pixel are dropped.
    """

    x: float
    y: float
    positive: bool = True

    @property
    def pixel(self) -> tuple[int, int]:
        """Row and column."""
        return int(self.y), int(self.x)


def checked_clicks(clicks: Sequence[Click], shape: tuple[int, int], box: Box | None) -> list[Click]:
    """The clicks, of several on one pixel the latest.

    Raises ClickError when one lies outside a photo of `shape` (height, width) or is positive outside the box.
    """
    height, width = shape
    latest: dict[tuple[int, int], Click] = {}
    for click in clicks:
        if not (0 <= click.x < width and 0 <= click.y < height):
            place = f"The click at x={click.x:g}, y={click.y:g}"
            raise ClickError(f"{place} lies outside the photo of {width} x {height} pixels.")
        if box is not None and click.positive and not _in_box(click, box):
            raise ClickError(f"The positive click at x={click.x:g}, y={click.y:g} lies outside the box.")
        latest.pop(click.pixel, None)
        latest[click.pixel] = click
    return list(latest.values())


def checked_box(box: Sequence[float] | None, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """A box as whole pixels x0, y0, x1, y1, end exclusive, cut off at the photo's edges.

    Raises ClickError when nothing of the photo is in it.
    """
    if box is None:
        return None
    height, width = shape
    x0, y0, x1, y1 = box
    found = (
        max(0, int(np.floor(x0))),
        max(0, int(np.floor(y0))),
        min(width, int(np.ceil(x1))),
        min(height, int(np.ceil(y1))),
    )
    if not (found[0] < found[2] and found[1] < found[3]):
        raise ClickError(f"The box {tuple(box)} holds nothing of the photo of {width} x {height} pixels.")
    return found


def checked_mask(mask: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray | None:
    """The current mask as bool; None for an empty one.

    Raises ClickError when its size is not the photo's.
    """
    if mask is None:
        return None
    if mask.shape != shape:
        size = " x ".join(map(str, mask.shape))
        raise ClickError(f"The mask is {size}, the photo has {shape[0]} rows and {shape[1]} columns.")
    mask = mask.astype(bool, copy=False)
    return mask if mask.any() else None


def _in_box(click: Click, box: Box) -> bool:
    row, column = click.pixel
    return box[0] <= column < box[2] and box[1] <= row < box[3]
