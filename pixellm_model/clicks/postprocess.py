"""From a method's logits to the photo's mask: what of a proposal is accepted, and clicks that must hold.

Changes to a current mask are accepted by whole connected components (Chen et al., "FocalClick", 2022): those
that a click of the same sign lies in or next to. Everything else stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pixellm_model.clicks.points import Click
from pixellm_model.preprocess import mask_strips
from pixellm_model.samples import Mask

CLICK_REACH = 3.0  # cells between a click and a change that it asks for, at most


def accepted_changes(
    proposed: Mask, current: Mask, points: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]
) -> Mask:
    """Find the cells in which a proposed mask replaces the current one.

    Args:
        proposed: The proposed mask (s, s).
        current: The current mask (s, s).
        points: (n, 2), x and y of the clicks in cells.
        positive: (n,) bool, which clicks lie on the object.

    Returns:
        (s, s) bool: the added components near a positive click and the removed ones near a negative click.
    """
    accepted = np.zeros(proposed.shape, bool)
    for sign, changed in ((True, proposed & ~current), (False, current & ~proposed)):
        components, count = ndimage.label(changed, np.ones((3, 3)))
        same_sign = points[positive == sign]
        if not count or not len(same_sign):
            continue
        clicked: set[int] = set()
        for x, y in same_sign:
            rows = slice(max(0, int(y - CLICK_REACH)), int(y + CLICK_REACH) + 1)
            columns = slice(max(0, int(x - CLICK_REACH)), int(x + CLICK_REACH) + 1)
            clicked |= set(np.unique(components[rows, columns]).tolist())
        accepted |= np.isin(components, list(clicked - {0}))
    return accepted


def restore_mask(
    logits: npt.NDArray[np.float32], resized: tuple[int, int], original: tuple[int, int], size: int
) -> Mask:
    """Threshold logits at 0 at the photo's own size, strip by strip to save memory.

    Args:
        logits: (s, s), on the padded square.
        resized: Height and width of the photo within the square, in pixels.
        original: Height H and width W of the photo in pixels.
        size: The square's side in pixels.

    Returns:
        The mask (H, W).
    """
    mask = np.zeros(original, bool)
    for row, column, strip in mask_strips(torch.from_numpy(logits), resized, original, size):
        height, width = strip.shape
        mask[row : row + height, column : column + width] = (strip > 0).numpy()
    return mask


def replace_cells(current: Mask, proposed: Mask, cells: Mask, scale: tuple[float, float]) -> Mask:
    """Replace the pixels of chosen cells in a copy of a mask.

    Args:
        current: The current mask (H, W).
        proposed: The proposed mask (H, W).
        cells: (s, s) bool, the cells in which `proposed` counts.
        scale: Cells per pixel, vertically and horizontally.

    Returns:
        The new mask (H, W).
    """
    result = current.copy()
    cell_rows, cell_columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    if not len(cell_rows):
        return result
    rows, columns = (
        _pixel_span(indices[0], indices[-1] + 1, factor, length)
        for indices, factor, length in zip((cell_rows, cell_columns), scale, current.shape, strict=True)
    )
    column_cells = ((np.arange(columns.start, columns.stop) + 0.5) * scale[1]).astype(int)
    for row in range(rows.start, rows.stop):
        chosen = cells[int((row + 0.5) * scale[0]), column_cells]
        np.copyto(result[row, columns], proposed[row, columns], where=chosen)
    return result


def enforce_clicks(mask: Mask, clicks: Sequence[Click], radius: float) -> None:
    """Make a mask agree with every click, in place.

    Each click that the mask contradicts gets a disk, which ends where a click of the other sign is nearer.

    Args:
        mask: The mask (H, W); changed.
        clicks: The clicks, one per pixel.
        radius: Radius of the disks in pixels.
    """
    for click in clicks:
        row, column = click.pixel
        if mask[row, column] == click.positive:
            continue
        reach = int(radius)
        rows = np.arange(max(0, row - reach), min(mask.shape[0], row + reach + 1))
        columns = np.arange(max(0, column - reach), min(mask.shape[1], column + reach + 1))
        distance = np.hypot(rows[:, None] - row, columns - column)
        disk = distance <= radius
        for other in clicks:
            if other.positive != click.positive:
                other_row, other_column = other.pixel
                disk &= distance < np.hypot(rows[:, None] - other_row, columns - other_column)
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][disk] = click.positive


def _pixel_span(first: int, end: int, scale: float, length: int) -> slice:
    """The pixels of a row or column of cells from `first` up to `end`, with a margin of one."""
    return slice(max(0, int(first / scale) - 1), min(length, int(np.ceil(end / scale)) + 1))
