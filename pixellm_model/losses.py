"""Mask losses (specification section 10.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mask_bce(logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of (N, H, W) logits, averaged over the valid pixels of each mask: (N,)."""
    loss = F.binary_cross_entropy_with_logits(logits, masks, reduction="none") * valid
    return loss.sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)


def mask_dice(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """Dice loss of (N, H, W) logits per mask: (N,). Sums are per thousand pixels, as in the reference."""
    p = logits.sigmoid() * valid
    t = masks * valid
    overlap = (p * t).sum((1, 2)) / 1000
    area = p.sum((1, 2)) / 1000 + t.sum((1, 2)) / 1000
    return 1 - (2 * overlap + eps) / (area + eps)
