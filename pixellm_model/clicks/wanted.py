"""What an annotator wants of a photo, on the padded square that the towers see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pixellm_model.clicks.points import Click

MASK_STRIDE = 2  # pixels of the square per cell of a mask that goes in or comes out


@dataclass(frozen=True)
class Square:
    """How a photo of `original` height and width lies in the square of `size` pixels, `resized` of it."""

    size: int
    resized: tuple[int, int]
    original: tuple[int, int]

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of a mask at MASK_STRIDE that hold photo."""
        height, width = (min(self.side, -(-length // MASK_STRIDE)) for length in self.resized)
        return height, width

    @property
    def side(self) -> int:
        """Cells of a mask along the square's side, even in number."""
        return self.size // (2 * MASK_STRIDE) * 2

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the square that a pixel of the photo is long, down and across."""
        return self.resized[0] / self.original[0], self.resized[1] / self.original[1]


@dataclass(frozen=True)
class Wanted:
    """`points` (n, 2) are x and y in pixels of the square, `positive` (n,) bool; `mask` is the current mask
    (S/2, S/2) bool or None, `box` x0, y0, x1, y1 in pixels of the square or None.
    """

    points: np.ndarray
    positive: np.ndarray
    mask: np.ndarray | None
    box: tuple[float, float, float, float] | None


def on_square(
    square: Square,
    clicks: Sequence[Click],
    mask: np.ndarray | None,
    box: tuple[int, int, int, int] | None,
) -> Wanted:
    """Clicks, a mask (H, W) bool and a box, checked and in pixels of the photo, on the square."""
    down, across = square.scale
    pixels = [click.pixel for click in clicks]
    points = np.array([((x + 0.5) * across, (y + 0.5) * down) for y, x in pixels], np.float32)
    small = None
    if mask is not None:
        rows, columns = square.cells
        shrunk = Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize(
            (columns, rows), Image.Resampling.BOX
        )
        small = np.zeros((square.side, square.side), bool)
        small[:rows, :columns] = np.asarray(shrunk) > 127
    scaled = None
    if box is not None:
        scaled = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return Wanted(points.reshape(-1, 2), np.array([c.positive for c in clicks], bool), small, scaled)
