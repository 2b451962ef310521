"""From the hidden states of targets to their masks at the photo's size, with score and box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pixellm_model.codebook import Codebook
from pixellm_model.config import PixelLMConfig
from pixellm_model.engine.answers import Target
from pixellm_model.engine.prefix_cache import Prefix
from pixellm_model.masks import Box, mask_box
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage, mask_strips
from pixellm_model.samples import Mask


def draw_targets(
    model: PixelLM, codebook: Codebook, states: Sequence[torch.Tensor], prefixes: Sequence[Prefix]
) -> list[torch.Tensor]:
    """Decode the targets of several answers in one call.

    Args:
        model: The model.
        codebook: Its codebook.
        states: For each answer the hidden states of its codebook tokens, (n * tokens per target, hidden).
        prefixes: For each answer its image.

    Returns:
        For each answer the low-resolution logits of its targets, (n, 4g, 4g).
    """
    counts = [len(hidden) // len(codebook.ids) for hidden in states]
    if not sum(counts):
        return [torch.empty(0) for _ in states]
    targets = codebook.fuse(model.target_embeddings(torch.cat(list(states))))
    owner = torch.repeat_interleave(torch.arange(len(states)), torch.tensor(counts)).to(model.device)
    sources = [torch.stack(level) for level in zip(*(prefix.sources for prefix in prefixes), strict=True)]
    return list(model.decode_from(targets, sources, owner)[0].split(counts))


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


def finish_targets(
    phrases: Sequence[str], low_res: Sequence[torch.Tensor], image: ProcessedImage, config: PixelLMConfig
) -> list[Target]:
    """Make the targets of one answer, with the scores that the checkpoint's calibration gives them.

    Args:
        phrases: The words that name each target.
        low_res: For each target its (m, m) logits over the padded square.
        image: The image they belong to.
        config: The model's configuration.

    Returns:
        The targets at the photo's size.
    """
    calibration = config.score_calibration
    targets = []
    for phrase, logits in zip(phrases, low_res, strict=True):
        mask, score, box = finish_mask(logits, image, config.image_size)
        targets.append(Target(phrase, mask, calibration(score) if calibration else score, box))
    return targets
