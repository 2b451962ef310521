"""What of a proposed mask is accepted: clicks hold, and far from them all stays as it was.

Changes to a mask that was given are accepted by whole connected parts (as in Chen et al., "FocalClick",
2022): those that a click of the same meaning lies in or next to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from pixellm_model.clicks.points import Click
from pixellm_model.preprocess import mask_strips

NEAR = 3.0  # cells between a click and a change that it asks for


def accepted_changes(
    proposed: np.ndarray, current: np.ndarray, points: np.ndarray, positive: np.ndarray
) -> np.ndarray:
    """The cells (s, s) bool in which `proposed` replaces `current`, both (s, s) bool.

    `points` (n, 2) are the clicks' x and y in cells, `positive` (n,) bool.
    """
    accepted = np.zeros(proposed.shape, bool)
    for sign, changed in ((True, proposed & ~current), (False, current & ~proposed)):
        parts, count = ndimage.label(changed, np.ones((3, 3)))
        mine = points[positive == sign]
        if not count or not len(mine):
            continue
        wanted: set[int] = set()
        for x, y in mine:
            rows = slice(max(0, int(y - NEAR)), int(y + NEAR) + 1)
            columns = slice(max(0, int(x - NEAR)), int(x + NEAR) + 1)
            wanted |= set(np.unique(parts[rows, columns]).tolist())
        accepted |= np.isin(parts, list(wanted - {0}))
    return accepted


def enlarge(logits: np.ndarray, resized: tuple[int, int], original: tuple[int, int], size: int) -> np.ndarray:
    """Logits (s, s) of the padded square of `size` pixels -> the photo's mask (H, W) bool, strip by strip."""
    mask = np.zeros(original, bool)
    for row, column, strip in mask_strips(torch.from_numpy(logits), resized, original, size):
        height, width = strip.shape
        mask[row : row + height, column : column + width] = (strip > 0).numpy()
    return mask


def replace_cells(
    current: np.ndarray, proposed: np.ndarray, cells: np.ndarray, scale: tuple[float, float]
) -> np.ndarray:
    """`current` (H, W), with `proposed` (H, W) in the pixels whose cell of `cells` (s, s) is set.

    `scale` is how many cells a pixel has, down and across.
    """
    result = current.copy()
    set_rows, set_columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    if not len(set_rows):
        return result
    rows, columns = (
        _pixels(span[0], span[-1] + 1, factor, length)
        for span, factor, length in zip((set_rows, set_columns), scale, current.shape, strict=True)
    )
    across = ((np.arange(columns.start, columns.stop) + 0.5) * scale[1]).astype(int)
    for row in range(rows.start, rows.stop):
        chosen = cells[int((row + 0.5) * scale[0]), across]
        np.copyto(result[row, columns], proposed[row, columns], where=chosen)
    return result


def obey(mask: np.ndarray, clicks: Sequence[Click], radius: float) -> None:
    """Give each click that `mask` (H, W) does not follow a disk of its own, in place, up to where a click of
    the other sign is nearer.
    """
    for click in clicks:
        row, column = click.pixel
        if mask[row, column] == click.positive:
            continue
        reach = int(radius)
        rows = np.arange(max(0, row - reach), min(mask.shape[0], row + reach + 1))
        columns = np.arange(max(0, column - reach), min(mask.shape[1], column + reach + 1))
        away = np.hypot(rows[:, None] - row, columns - column)
        disk = away <= radius
        for other in clicks:
            if other.positive != click.positive:
                there = np.hypot(rows[:, None] - other.pixel[0], columns - other.pixel[1])
                disk &= away < there
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][disk] = click.positive


def _pixels(first: int, end: int, scale: float, length: int) -> slice:
    return slice(max(0, int(first / scale) - 1), min(length, int(np.ceil(end / scale)) + 1))
