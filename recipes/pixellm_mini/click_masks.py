"""Imperfect masks to learn refinement from: what an annotator might have been given for an object."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def imperfect(truth: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Spoil an object's mask (s, s) bool in one or two ways; `others` are masks of the photo's other objects.

    Its edge is moved and wobbles, it is shifted, drawn on a coarse grid, joined with a neighbour or with
    something beside it, or a part is missing. May come out empty.
    """
    mask = truth
    ways = [_wobbled, _shifted, _coarse, _cut, _joined_blob]
    for way in rng.choice(len(ways), int(rng.integers(1, 3)), replace=False):
        mask = ways[way](mask, rng)
    if others and rng.random() < 0.3:
        mask = mask | _nearest(truth, others, rng)
    return mask


def _extent(mask: np.ndarray) -> float:
    return float(np.sqrt(max(mask.sum(), 16)))


def _wobbled(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The edge moved in or out, by different amounts along it."""
    signed = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    side, cells = len(mask), int(rng.integers(3, 14))
    noise = ndimage.zoom(rng.standard_normal((cells, cells)), side / cells, order=1)[:side, :side]
    extent = _extent(mask)
    return signed + extent * (rng.uniform(0, 0.25) * noise + rng.uniform(-0.15, 0.15)) > 0


def _shifted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    by = np.round(rng.normal(0, 0.12, 2) * _extent(mask)).astype(int)
    return ndimage.shift(mask.astype(np.uint8), by, order=0) > 0


def _coarse(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a small map enlarged draws it."""
    cells, side = int(rng.choice([16, 32])), len(mask)
    step = side // cells
    small = mask.reshape(cells, step, cells, step).mean((1, 3))
    return ndimage.zoom(small, step, order=1)[:side, :side] > rng.uniform(0.25, 0.6)


def _cut(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Without what lies on one side of a line through it."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return mask
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    kept = along > np.quantile(along, rng.uniform(0.1, 0.6))
    cut = np.zeros_like(mask)
    cut[rows[kept], columns[kept]] = True
    return cut


def _joined_blob(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With an ellipse on its edge."""
    edge = np.flatnonzero(mask & ~ndimage.binary_erosion(mask))
    if not len(edge):
        return mask
    row, column = divmod(int(rng.choice(edge)), len(mask))
    y, x = np.ogrid[: len(mask), : len(mask)]
    tall, wide = rng.uniform(0.15, 0.5, 2) * _extent(mask) + 1
    blob = ((y - row) / tall) ** 2 + ((x - column) / wide) ** 2 < 1
    return mask | blob if rng.random() < 0.7 else mask & ~blob


def _nearest(truth: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One of the objects, likely a near one."""
    away = ndimage.distance_transform_edt(~truth)
    gaps = np.array([away[other].min() if other.any() else 1e3 for other in others])
    weights = np.exp(-gaps / 20) + 1e-6
    return others[int(rng.choice(len(others), p=weights / weights.sum()))]
