"""From one target's low-resolution logits to its mask at the photo's size, with score and box."""

from __future__ import annotations

import numpy as np
import torch

from pixellm_model.masks import Box, mask_box
from pixellm_model.preprocess import ProcessedImage, mask_strips
from pixellm_model.samples import Mask


def finish_mask(low_res: torch.Tensor, image: ProcessedImage, image_size: int) -> tuple[Mask, float, Box]:
    """Enlarge and threshold one target's logits, strip by strip.

    Args:
        low_res: (m, m) logits over the padded square.
        image: The image they belong to.
        image_size: Side of the padded square in pixels.

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
