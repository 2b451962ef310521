"""Masks between arrays and COCO run-length encoding, the form they have in the queue and at rest."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from pixellm_model.masks import Box, mask_box
from pixellm_model.samples import Mask
from worker.jobs.contract import CocoRLE


def to_rle(mask: npt.NDArray[Any]) -> CocoRLE:
    """Compress a mask.

    >>> to_rle(np.eye(2, dtype=bool)).size
    (2, 2)

    Args:
        mask: (height, width) of any dtype; every value that is not zero is inside.

    Returns:
        The compressed mask.

    Raises:
        ValueError: The array has not two dimensions.
    """
    if mask.ndim != 2:
        raise ValueError(f"A mask has the shape (height, width); this one has {mask.shape}.")
    height, width = mask.shape
    encoded = coco.encode(_reordered("F", mask, mask_box(mask)))
    return CocoRLE(size=(height, width), counts=encoded["counts"].decode("ascii"))


def is_empty(rle: CocoRLE) -> bool:
    """Whether a mask has no pixel inside; its runs tell, it is not decompressed."""
    return not coco.area(_encoded(rle))


def from_rle(rle: CocoRLE) -> Mask:
    """Decompress a mask to (height, width) bool in C order."""
    encoded = _encoded(rle)
    x, y, width, height = coco.toBbox(encoded).astype(int)
    return _reordered("C", coco.decode(encoded), (x, y, x + width, y + height)).view(bool)


def _reordered(order: Literal["C", "F"], mask: npt.NDArray[Any], box: Box) -> npt.NDArray[np.uint8]:
    """A copy as uint8, 0 or 1, in the other memory order.

    Copying into the other order is what takes the time in this file, so only `box` (x0, y0, x1, y1) is
    copied; outside it the mask is empty.
    """
    x0, y0, x1, y1 = box
    copy = np.zeros(mask.shape, np.uint8, order=order)
    copy[y0:y1, x0:x1] = mask[y0:y1, x0:x1] != 0
    return copy


def _encoded(rle: CocoRLE) -> dict[str, object]:
    return {"size": list(rle.size), "counts": rle.counts.encode("ascii")}
