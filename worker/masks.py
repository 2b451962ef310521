"""Masks between arrays and COCO RLE, the form they have in the queue and at rest."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from worker.contract import CocoRLE


def to_rle(mask: np.ndarray) -> CocoRLE:
    """Compresses a mask of shape (height, width); every value that is not zero is inside.

    >>> to_rle(np.eye(2, dtype=bool)).size
    (2, 2)
    """
    if mask.ndim != 2:
        raise ValueError(f"A mask has the shape (height, width); this one has {mask.shape}.")
    encoded = coco.encode(np.asfortranarray(mask.astype(bool).view(np.uint8)))
    height, width = mask.shape
    return CocoRLE(size=(height, width), counts=encoded["counts"].decode("ascii"))


def from_rle(rle: CocoRLE) -> np.ndarray:
    """Expands a mask to a bool array of shape (height, width)."""
    decoded: np.ndarray = coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")})
    return decoded.astype(bool)
