"""Clicks, a box and the current mask of one object, on the padded square that the towers see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixellm_model.clicks.points import Box, Click, PixelBox
from pixellm_model.samples import Mask

MASK_STRIDE = 2  # pixels of the square per cell of an input or output mask


@dataclass(frozen=True)
class PaddedSquare:
    """How a photo lies in the padded square, at its top left corner.

    Attributes:
        size: The square's side S in pixels.
        resized: Height and width of the photo within the square, in pixels.
        original: Height and width of the photo itself, in pixels.
    """

    size: int
    resized: tuple[int, int]
    original: tuple[int, int]

    @property
    def mask_side(self) -> int:
        """Cells of a mask along the square's side; an even number."""
        return self.size // (2 * MASK_STRIDE) * 2

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Rows and columns of a mask that show the photo; the rest is padding."""
        height, width = (min(self.mask_side, -(-length // MASK_STRIDE)) for length in self.resized)
        return height, width

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the square per pixel of the photo, vertically and horizontally."""
        return self.resized[0] / self.original[0], self.resized[1] / self.original[1]


@dataclass(frozen=True)
class ClickPrompt:
    """The clicks, box and current mask of one object, on the padded square of S pixels.

    Attributes:
        points: (n, 2) float, x and y of the clicks in pixels of the square.
        positive: (n,) bool, which clicks lie on the object.
        mask: The current mask (S/2, S/2), or None.
        box: Edges x0, y0, x1, y1 in pixels of the square, or None.
    """

    points: npt.NDArray[np.floating]
    positive: npt.NDArray[np.bool_]
    mask: Mask | None
    box: Box | None


def build_prompt(
    square: PaddedSquare, clicks: Sequence[Click], mask: Mask | None, box: PixelBox | None
) -> ClickPrompt:
    """Map valid clicks, a mask and a box from the photo to the padded square.

    Args:
        square: Where the photo lies in the square.
        clicks: The clicks, inside the photo.
        mask: The current mask (H, W), or None.
        box: The box, or None.

    Returns:
        The prompt in the square's pixels.
    """
    scale_y, scale_x = square.scale
    pixels = [click.pixel for click in clicks]
    points = np.array([((x + 0.5) * scale_x, (y + 0.5) * scale_y) for y, x in pixels], np.float32)
    square_box = None
    if box is not None:
        square_box = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
    return ClickPrompt(
        points.reshape(-1, 2),
        np.array([click.positive for click in clicks], bool),
        None if mask is None else _shrink(mask, square),
        square_box,
    )


def _shrink(mask: Mask, square: PaddedSquare) -> Mask:
    """The photo's mask (H, W) -> (S/2, S/2), by the majority of each cell's pixels."""
    rows, columns = square.mask_shape
    pixels = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
    resized = pixels.resize((columns, rows), Image.Resampling.BOX)
    padded = np.zeros((square.mask_side, square.mask_side), bool)
    padded[:rows, :columns] = np.asarray(resized) > 127
    return padded
