"""Mask losses (specification sections 10.1 and 10.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mask_bce(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy of (N, H, W) logits, averaged over the valid pixels of each mask: (N,).

    `weight` (N, H, W) makes pixels count more; what is divided by stays the number of valid pixels.
    """
    loss = F.binary_cross_entropy_with_logits(logits, masks, weight, reduction="none") * valid
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


def refinement_weight(logits: torch.Tensor, question: torch.Tensor, alpha: float) -> torch.Tensor:
    """The target refinement loss's pixel weights, (N, H, W): `alpha` where two or more targets of one
    question claim the pixel (logit above 0), else 1.

    `question` (N,) numbers the question that each of the (N, H, W) logits belongs to. Source: the paper's
    equation, section 10.2; the reference's code computed it wrongly and left it out in the end.
    """
    claimed = (logits > 0).to(logits.dtype)
    claims = torch.zeros(
        int(question.max()) + 1, *claimed.shape[1:], dtype=claimed.dtype, device=claimed.device
    )
    claims.index_add_(0, question, claimed)
    return 1 + (alpha - 1) * (claims[question] >= 2)
