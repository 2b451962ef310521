"""Things in an image, and what can be measured of them: their place, their colour, how two of them stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing in an image: its name and its visible mask (H, W) bool. Equal only to itself."""

    name: str
    mask: np.ndarray

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the mask's centre, as fractions of the image's height and width."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        columns = np.flatnonzero(self.mask.any(axis=0))
        height, width = self.mask.shape
        return float(rows[0] + rows[-1] + 1) / (2 * height), float(columns[0] + columns[-1] + 1) / (2 * width)

    def stands(self, relation: str, other: "Thing") -> bool | None:
        """Whether it stands in a relation of `RELATIONS` to another thing; None where one could argue.

        It does when its centre is off by an eighth of the image in that direction and by no more across. It
        does not when the centre is off in the opposite direction.
        """
        axis, sign = RELATIONS[relation]
        off = [own - its for own, its in zip(self.centre, other.centre, strict=True)]
        pixels = [abs(part * side) for part, side in zip(off, self.mask.shape, strict=True)]
        if sign * off[axis] >= PLAIN and pixels[axis] >= pixels[1 - axis]:
            return True
        return False if sign * off[axis] <= -HARDLY else None

    def shows(self, colour: str, image: np.ndarray) -> bool | None:
        """Whether it is of a colour of `COLOURS` in `image`, (H, W, 3) uint8; None where one could argue.

        It is when most of its pixels surely are, and it is not when hardly any could be called so.
        """
        pixels = image[self.mask].astype(np.float32) / 255  # (n, 3)
        if not len(pixels):
            return None
        value, low = pixels.max(1), pixels.min(1)
        strength = (value - low) / np.maximum(value, 1e-6)
        hue = _hue(pixels, value, low)
        surely, perhaps = (within(hue, strength, value) for within in COLOURS[colour])
        if surely.mean() >= MOSTLY:
            return True
        return False if perhaps.mean() <= BARELY else None


def outermost(things: Sequence[Thing], axis: int, greatest: bool) -> Thing | None:
    """The thing nearest to one side of the image; None where another is about as near."""
    ranked = sorted(things, key=lambda thing: thing.centre[axis], reverse=greatest)
    plain = abs(ranked[0].centre[axis] - ranked[1].centre[axis]) >= PLAIN
    return ranked[0] if plain else None


def biggest(things: Sequence[Thing], greatest: bool) -> Thing | None:
    """The biggest thing, or the smallest; None unless it is by half bigger or smaller than the next."""
    ranked = sorted(things, key=lambda thing: int(thing.mask.sum()), reverse=greatest)
    less, more = sorted(int(thing.mask.sum()) for thing in ranked[:2])
    return ranked[0] if more >= 1.5 * less else None


def _hue(pixels: np.ndarray, value: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Hue in degrees, (n,), of pixels (n, 3) with the greatest and least channel known; 0 for greys."""
    red, green, blue = pixels.T
    spread = np.maximum(value - low, 1e-6)
    turn = np.where(
        value == red,
        (green - blue) / spread,
        np.where(value == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    return np.where(value == low, 0, turn * 60 % 360)


def _tinted(start: float, end: float, strength: float, value: float) -> "Measure":
    """Pixels of a hue between two angles, of at least that saturation and brightness."""
    return lambda hue, s, v: ((hue - start) % 360 <= (end - start) % 360) & (s >= strength) & (v >= value)


Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
PLAIN, HARDLY = 0.12, 0.05  # distances between centres, of the image's side
MOSTLY, BARELY = 0.6, 0.08  # shares of a thing's pixels
# The relation, the axis (0 down, 1 across) and the direction.
RELATIONS = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}
# For each colour what surely is it, and what somebody might call so: dark, pale and neighbouring shades.
COLOURS: dict[str, tuple[Measure, Measure]] = {
    "red": (_tinted(350, 10, 0.6, 0.55), _tinted(325, 25, 0.25, 0.15)),
    "orange": (_tinted(20, 38, 0.6, 0.75), _tinted(8, 50, 0.25, 0.3)),
    "yellow": (_tinted(50, 65, 0.5, 0.65), _tinted(38, 80, 0.2, 0.3)),
    "green": (_tinted(90, 150, 0.4, 0.3), _tinted(65, 180, 0.15, 0.12)),
    "blue": (_tinted(205, 250, 0.45, 0.35), _tinted(175, 280, 0.15, 0.12)),
    "black": (lambda hue, s, v: v <= 0.2, lambda hue, s, v: v <= 0.4),
    "white": (lambda hue, s, v: (v >= 0.85) & (s <= 0.12), lambda hue, s, v: (v >= 0.6) & (s <= 0.3)),
}
