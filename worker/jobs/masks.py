"""Masks between arrays and COCO RLE, the form they have in the queue and at rest."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pycocotools import mask as coco

from worker.jobs.contract import CocoRLE


def to_rle(mask: np.ndarray) -> CocoRLE:
    """Compresses a mask of shape (height, width); every value that is not zero is inside.

    >>> to_rle(np.eye(2, dtype=bool)).size
    (2, 2)
    """
    if mask.ndim != 2:
        raise ValueError(f"A mask has the shape (height, width); this one has {mask.shape}.")
    height, width = mask.shape
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
    encoded = coco.encode(_in_order("F", mask, box))
    return CocoRLE(size=(height, width), counts=encoded["counts"].decode("ascii"))


def is_empty(rle: CocoRLE) -> bool:
    """Whether a mask has no pixel inside; known from its runs, without expanding them."""
    return not coco.area(_encoded(rle))


def from_rle(rle: CocoRLE) -> np.ndarray:
    """Expands a mask to a bool array of shape (height, width), row by row in memory."""
    encoded = _encoded(rle)
    x, y, width, height = coco.toBbox(encoded).astype(int)
    return _in_order("C", coco.decode(encoded), (x, y, x + width, y + height)).view(bool)


def _in_order(order: Literal["C", "F"], mask: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A copy as uint8, 0 or 1, in the other order of rows and columns. Copying against the grain is what
    takes the time in this file, so only `box` is copied (x0, y0, x1, y1); outside it the mask is empty."""
    x0, y0, x1, y1 = box
    copy = np.zeros(mask.shape, np.uint8, order=order)
    copy[y0:y1, x0:x1] = mask[y0:y1, x0:x1] != 0
    return copy


def _encoded(rle: CocoRLE) -> dict[str, object]:
    return {"size": list(rle.size), "counts": rle.counts.encode("ascii")}
