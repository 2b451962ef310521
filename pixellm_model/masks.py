"""The bounding box of a mask. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, end exclusive


def mask_box(mask: npt.NDArray[Any]) -> Box:
    """The tightest box around a mask.

    >>> mask = np.zeros((10, 20), bool)
    >>> mask_box(mask)
    (0, 0, 0, 0)
    >>> mask[2:5, 7:19] = True
    >>> mask_box(mask)
    (7, 2, 19, 5)

    Args:
        mask: (H, W) of any dtype; every value that is not zero is inside.

    Returns:
        The box; all 0 for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
