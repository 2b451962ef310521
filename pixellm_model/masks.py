"""The bounding box of a mask. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mask_box(mask: npt.NDArray[np.generic]) -> tuple[int, int, int, int]:
    """The bounding box of a mask.

    Args:
        mask: (H, W) of any dtype; every value that is not zero is inside.

    Returns:
        x0, y0, x1, y1 in pixels, end exclusive; zeros for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
