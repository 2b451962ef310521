"""Mask losses (arXiv 2312.02228, Training Objectives; docs/training.md)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mask_bce(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy per mask, averaged over its valid pixels.

    Args:
        logits: (N, H, W).
        masks: (N, H, W) in 0..1.
        valid: (N, H, W), 1 where a pixel counts and 0 in the padding.
        weight: (N, H, W) weights of pixels. The divisor stays the number of valid pixels.

    Returns:
        (N,).
    """
    loss = F.binary_cross_entropy_with_logits(logits, masks, weight, reduction="none") * valid
    return loss.sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)


def mask_dice(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """Dice loss per mask, with sums in thousands of pixels as in the reference.

    Args:
        logits: (N, H, W).
        masks: (N, H, W) in 0..1.
        valid: (N, H, W), 1 where a pixel counts and 0 in the padding.
        eps: Keeps the ratio finite for empty masks.

    Returns:
        (N,), each in 0..1.
    """
    predicted = logits.sigmoid() * valid
    truth = masks * valid
    overlap = (predicted * truth).sum((1, 2)) / 1000
    area = predicted.sum((1, 2)) / 1000 + truth.sum((1, 2)) / 1000
    return 1 - (2 * overlap + eps) / (area + eps)


def refinement_weight(logits: torch.Tensor, question: torch.Tensor, alpha: float) -> torch.Tensor:
    """Pixel weights of the target refinement loss (arXiv 2312.02228).

    The reference's code computes it wrongly and leaves it out of the published training.

    Args:
        logits: (N, H, W).
        question: (N,) the number of the question that each target belongs to.
        alpha: Weight of contested pixels.

    Returns:
        (N, H, W): `alpha` where two or more targets of one question claim the pixel (logit above 0), else 1.
    """
    claimed = (logits > 0).to(logits.dtype)
    claims = torch.zeros(
        int(question.max()) + 1, *claimed.shape[1:], dtype=claimed.dtype, device=claimed.device
    )
    claims.index_add_(0, question, claimed)
    return 1 + (alpha - 1) * (claims[question] >= 2)
