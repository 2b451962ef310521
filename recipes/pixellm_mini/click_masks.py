"""Imperfect masks of an object, such as an annotator starts from, for training the click head."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pixellm_model.samples import Mask

JOIN_PROBABILITY = 0.3  # of joining the object with another one
NEIGHBOUR_DISTANCE = 20  # cells over which the probability of a neighbour falls by the factor e


def corrupt_mask(truth: Mask, others: list[Mask], rng: np.random.Generator) -> Mask:
    """Corrupt an object's mask in one or two random ways.

    Its boundary is moved, it is shifted, drawn on a coarse grid, cut off along a line, or an ellipse on its
    boundary is added or removed; sometimes it is joined with another object.

    Args:
        truth: The object's true mask (s, s); s is a multiple of 32.
        others: Masks (s, s) of the photo's other objects.
        rng: The source of randomness.

    Returns:
        The corrupted mask (s, s); it may be empty.
    """
    mask = truth
    corruptions = [_distort_boundary, _shift, _coarsen, _cut, _add_or_remove_ellipse]
    for index in rng.choice(len(corruptions), int(rng.integers(1, 3)), replace=False):
        mask = corruptions[index](mask, rng)
    if others and rng.random() < JOIN_PROBABILITY:
        mask = mask | _draw_neighbour(truth, others, rng)
    return mask


def _extent(mask: Mask) -> float:
    """The side in cells of a square of the mask's area, at least 4."""
    return float(np.sqrt(max(mask.sum(), 16)))


def _distort_boundary(mask: Mask, rng: np.random.Generator) -> Mask:
    """Move the boundary in or out, by amounts that vary along it."""
    signed = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    side, cells = len(mask), int(rng.integers(3, 14))
    noise = ndimage.zoom(rng.standard_normal((cells, cells)), side / cells, order=1)[:side, :side]
    extent = _extent(mask)
    return signed + extent * (rng.uniform(0, 0.25) * noise + rng.uniform(-0.15, 0.15)) > 0


def _shift(mask: Mask, rng: np.random.Generator) -> Mask:
    offset = np.round(rng.normal(0, 0.12, 2) * _extent(mask)).astype(int)
    return ndimage.shift(mask.astype(np.uint8), offset, order=0) > 0


def _coarsen(mask: Mask, rng: np.random.Generator) -> Mask:
    """Draw the mask at 16 x 16 or 32 x 32 cells and enlarge it."""
    cells, side = int(rng.choice([16, 32])), len(mask)
    step = side // cells
    small = mask.reshape(cells, step, cells, step).mean((1, 3))
    return ndimage.zoom(small, step, order=1)[:side, :side] > rng.uniform(0.25, 0.6)


def _cut(mask: Mask, rng: np.random.Generator) -> Mask:
    """Remove what lies on one side of a random line."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return mask
    angle = rng.uniform(0, 2 * np.pi)
    position = np.cos(angle) * columns + np.sin(angle) * rows
    remaining = position > np.quantile(position, rng.uniform(0.1, 0.6))
    result = np.zeros_like(mask)
    result[rows[remaining], columns[remaining]] = True
    return result


def _add_or_remove_ellipse(mask: Mask, rng: np.random.Generator) -> Mask:
    """Add or remove an ellipse around a cell of the boundary."""
    boundary = np.flatnonzero(mask & ~ndimage.binary_erosion(mask))
    if not len(boundary):
        return mask
    row, column = divmod(int(rng.choice(boundary)), len(mask))
    y, x = np.ogrid[: len(mask), : len(mask)]
    height, width = rng.uniform(0.15, 0.5, 2) * _extent(mask) + 1
    ellipse = ((y - row) / height) ** 2 + ((x - column) / width) ** 2 < 1
    return mask | ellipse if rng.random() < 0.7 else mask & ~ellipse


def _draw_neighbour(truth: Mask, others: list[Mask], rng: np.random.Generator) -> Mask:
    """Draw one of the other objects, more likely a near one."""
    distance = ndimage.distance_transform_edt(~truth)
    gaps = np.array([distance[other].min() if other.any() else 1e3 for other in others])
    weights = np.exp(-gaps / NEIGHBOUR_DISTANCE) + 1e-6
    return others[int(rng.choice(len(others), p=weights / weights.sum()))]
