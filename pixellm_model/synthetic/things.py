"""Named things in an image, and what is measured of them: position, colour, and relations between two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pixellm_model.samples import Mask, Pixels

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing in an image. Compared by identity.

    Attributes:
        name: Its name in the vocabulary.
        mask: (H, W) bool, its visible pixels.
    """

    name: str
    mask: Mask

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the bounding box's centre, as fractions of the image's height and width."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        columns = np.flatnonzero(self.mask.any(axis=0))
        height, width = self.mask.shape
        return float(rows[0] + rows[-1] + 1) / (2 * height), float(columns[0] + columns[-1] + 1) / (2 * width)

    def stands(self, relation: str, other: "Thing") -> bool | None:
        """Whether it stands in a relation to another thing.

        Args:
            relation: A key of RELATIONS.
            other: The other thing.

        Returns:
            True if its centre is CLEAR_OFFSET away in that direction and no further across; False if it is
            SLIGHT_OFFSET away in the opposite direction; None where people may disagree.
        """
        axis, sign = RELATIONS[relation]
        offset = [a - b for a, b in zip(self.centre, other.centre, strict=True)]
        pixels = [abs(part * side) for part, side in zip(offset, self.mask.shape, strict=True)]
        if sign * offset[axis] >= CLEAR_OFFSET and pixels[axis] >= pixels[1 - axis]:
            return True
        return False if sign * offset[axis] <= -SLIGHT_OFFSET else None

    def shows(self, colour: str, image: Pixels) -> bool | None:
        """Whether it is of a colour.

        Args:
            colour: A key of COLOURS.
            image: (H, W, 3) uint8 RGB.

        Returns:
            True if the share of its pixels that are certainly of the colour is at least MOST_PIXELS; False if
            the share that may be called so is at most FEW_PIXELS; None where people may disagree.
        """
        pixels = image[self.mask].astype(np.float32) / 255  # (n, 3)
        if not len(pixels):
            return None
        value, low = pixels.max(1), pixels.min(1)
        strength = (value - low) / np.maximum(value, 1e-6)
        hue = _hue(pixels, value, low)
        certain, possible = (test(hue, strength, value) for test in COLOURS[colour])
        if certain.mean() >= MOST_PIXELS:
            return True
        return False if possible.mean() <= FEW_PIXELS else None


def outermost(things: Sequence[Thing], axis: int, greatest: bool) -> Thing | None:
    """The thing nearest to one side of the image; None if the next is less than CLEAR_OFFSET behind.

    Args:
        things: At least two.
        axis: 0 for top or bottom, 1 for left or right.
        greatest: Take the bottom or right side.
    """
    ranked = sorted(things, key=lambda thing: thing.centre[axis], reverse=greatest)
    is_clear = abs(ranked[0].centre[axis] - ranked[1].centre[axis]) >= CLEAR_OFFSET
    return ranked[0] if is_clear else None


def extreme_by_area(things: Sequence[Thing], largest: bool) -> Thing | None:
    """Return the thing with the largest or the smallest visible area.

    Args:
        things: At least two.
        largest: Whether to return the largest instead of the smallest.

    Returns:
        The thing; None if its area differs from the next one's by a factor below CLEAR_RATIO.
    """
    ranked = sorted(things, key=lambda thing: int(thing.mask.sum()), reverse=largest)
    smaller, bigger = sorted(int(thing.mask.sum()) for thing in ranked[:2])
    return ranked[0] if bigger >= CLEAR_RATIO * smaller else None


def _hue(pixels: FloatArray, value: FloatArray, low: FloatArray) -> FloatArray:
    """Hue in degrees, (n,), of pixels (n, 3) given their greatest and least channel; 0 for greys."""
    red, green, blue = pixels.T
    spread = np.maximum(value - low, 1e-6)
    sextant = np.where(
        value == red,
        (green - blue) / spread,
        np.where(value == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    return np.where(value == low, 0, sextant * 60 % 360)


def _hue_range(start: float, end: float, strength: float, value: float) -> "PixelTest":
    """Pixels of a hue between two angles, of at least that saturation and brightness."""
    return lambda hue, s, v: ((hue - start) % 360 <= (end - start) % 360) & (s >= strength) & (v >= value)


# From hue in degrees, saturation and brightness in 0..1, each (n,), to (n,) bool.
PixelTest = Callable[[FloatArray, FloatArray, FloatArray], npt.NDArray[np.bool_]]
# Distances between centres, as shares of the image's side.
CLEAR_OFFSET, SLIGHT_OFFSET = 0.12, 0.05
CLEAR_RATIO = 1.5  # of areas
# Shares of a thing's pixels.
MOST_PIXELS, FEW_PIXELS = 0.6, 0.08
# Per relation, the axis (0 down, 1 across) and the direction.
RELATIONS = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}
# Per colour, the pixels certainly of it, and those that may be called so: dark, pale and similar shades.
COLOURS: dict[str, tuple[PixelTest, PixelTest]] = {
    "red": (_hue_range(350, 10, 0.6, 0.55), _hue_range(325, 25, 0.25, 0.15)),
    "orange": (_hue_range(20, 38, 0.6, 0.75), _hue_range(8, 50, 0.25, 0.3)),
    "yellow": (_hue_range(50, 65, 0.5, 0.65), _hue_range(38, 80, 0.2, 0.3)),
    "green": (_hue_range(90, 150, 0.4, 0.3), _hue_range(65, 180, 0.15, 0.12)),
    "blue": (_hue_range(205, 250, 0.45, 0.35), _hue_range(175, 280, 0.15, 0.12)),
    "black": (lambda hue, s, v: v <= 0.2, lambda hue, s, v: v <= 0.4),
    "white": (lambda hue, s, v: (v >= 0.85) & (s <= 0.12), lambda hue, s, v: (v >= 0.6) & (s <= 0.3)),
}
