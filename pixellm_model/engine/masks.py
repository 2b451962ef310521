"""From one target's low-resolution logits to its mask at the photo's size, with score and box."""

from __future__ import annotations

import numpy as np
import torch

from pixellm_model.preprocess import ProcessedImage, mask_strips
from pixellm_model.samples import Mask

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, end exclusive


def finish_mask(low_res: torch.Tensor, image: ProcessedImage, image_size: int) -> tuple[Mask, float, Box]:
    """Enlarge and threshold one target's logits, strip by strip.

    Args:
        low_res: (m, m) logits over the padded square.
        image: the image they belong to.
        image_size: side of the padded square in pixels.

    Returns:
        The mask (H, W) at the photo's size, its score (mean confidence inside it, 0..1, 0 if it is empty) and
        its box.
    """
    mask = np.zeros(image.original, bool)
    confidence = 0.0
    for row, column, logits in mask_strips(low_res, image.resized, image.original, image_size):
        inside = logits > 0
        confidence += float(logits[inside].sigmoid().sum())
        height, width = inside.shape
        mask[row : row + height, column : column + width] = inside.cpu().numpy()
    return mask, confidence / (np.count_nonzero(mask) + 1e-6), mask_box(mask)


def mask_box(mask: Mask) -> Box:
    """The tightest box around a (H, W) mask; all 0 for an empty mask.

    >>> mask = np.zeros((10, 20), bool)
    >>> mask_box(mask)
    (0, 0, 0, 0)
    >>> mask[2:5, 7:19] = True
    >>> mask_box(mask)
    (7, 2, 19, 5)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
