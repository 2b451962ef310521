"""Clicks and boxes in pixels of the photo, and the checks of what a caller passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixellm_model.errors import ClickError
from pixellm_model.samples import Mask

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
PixelBox = tuple[int, int, int, int]  # the same in whole pixels, end exclusive


@dataclass(frozen=True)
class Click:
    """A point of the photo that lies on the object or off it. Fractions of a pixel are dropped.

    Attributes:
        x: Pixels from the photo's left edge.
        y: Pixels from its top edge.
        positive: Whether the point belongs to the object.
    """

    x: float
    y: float
    positive: bool = True

    @property
    def pixel(self) -> tuple[int, int]:
        """Row and column."""
        return int(self.y), int(self.x)


def validate_clicks(clicks: Sequence[Click], shape: tuple[int, int], box: PixelBox | None) -> list[Click]:
    """Check clicks against the photo and the box.

    Args:
        clicks: The clicks, in the order they were made.
        shape: Height and width of the photo in pixels.
        box: The box, or None.

    Returns:
        The clicks; of several on one pixel the latest.

    Raises:
        ClickError: A click lies outside the photo, or a positive one outside the box.
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


def validate_box(box: Sequence[float] | None, shape: tuple[int, int]) -> PixelBox | None:
    """Round a box outwards to whole pixels and clip it to the photo.

    Args:
        box: Edges x0, y0, x1, y1 in pixels, or None.
        shape: Height and width of the photo in pixels.

    Returns:
        The box, or None if there is none.

    Raises:
        ClickError: The box does not overlap the photo.
    """
    if box is None:
        return None
    height, width = shape
    x0, y0, x1, y1 = box
    clipped = (
        max(0, int(np.floor(x0))),
        max(0, int(np.floor(y0))),
        min(width, int(np.ceil(x1))),
        min(height, int(np.ceil(y1))),
    )
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise ClickError(f"The box {tuple(box)} holds nothing of the photo of {width} x {height} pixels.")
    return clipped


def validate_mask(mask: Mask | None, shape: tuple[int, int]) -> Mask | None:
    """Check the current mask against the photo.

    Args:
        mask: The current mask (H, W), or None.
        shape: Height and width of the photo in pixels.

    Returns:
        The mask; None if there is none or it is empty.

    Raises:
        ClickError: The mask's size is not the photo's.
    """
    if mask is None:
        return None
    if mask.shape != shape:
        size = " x ".join(map(str, mask.shape))
        raise ClickError(f"The mask is {size}, the photo has {shape[0]} rows and {shape[1]} columns.")
    mask = mask.astype(bool, copy=False)
    return mask if mask.any() else None


def _in_box(click: Click, box: PixelBox) -> bool:
    row, column = click.pixel
    return box[0] <= column < box[2] and box[1] <= row < box[3]
