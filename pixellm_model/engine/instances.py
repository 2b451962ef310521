"""A target whose mask falls into parts that do not touch, taken apart: one target for each.

A pyramid marks all that a name fits: two cups are two islands of one mask. What is much smaller than the
largest part is taken for a piece of one, behind something or badly drawn, and stays with its nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

FEWEST_CELLS = 12  # of the logits: what is smaller is no thing of its own
MOST_PARTS = 12  # of one target


def take_apart(
    texts: Sequence[str],
    phrases: Sequence[str],
    logits: torch.Tensor,
    shares: Sequence[float],
    limit: int,
) -> tuple[list[str], list[str], list[torch.Tensor]]:
    """Make one target of each part of each target.

    Args:
        texts: What the model said before, between and after its targets.
        phrases: What names each target.
        logits: (n, m, m) of the targets.
        shares: For each target from which share of its largest part's area on a part counts; a target with 0
            stays whole.
        limit: The most targets there may be; one with too many parts for that stays whole.

    Returns:
        Texts, phrases and logits of the targets there are now.
    """
    new_texts = [texts[0]]
    new_phrases: list[str] = []
    new_logits: list[torch.Tensor] = []
    rest = zip(texts[1:], phrases, logits, shares, strict=True)
    for number, (text, phrase, target, share) in enumerate(rest, start=1):
        parts = split(target, share) if share else [target]
        if len(new_phrases) + len(parts) + len(phrases) - number > limit:
            parts = [target]
        new_texts += [","] * (len(parts) - 2) + ["and"] * (len(parts) > 1)
        new_texts.append(text)
        new_phrases += [phrase] * len(parts)
        new_logits += parts
    return new_texts, new_phrases, new_logits


def split(logits: torch.Tensor, share: float) -> list[torch.Tensor]:
    """The logits (m, m) of a target's parts, from left to right; each is negative where the others are."""
    labels, count = ndimage.label(logits.cpu().numpy() > 0)
    if count < 2:
        return [logits]
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    least = max(FEWEST_CELLS, share * areas.max())
    large = [int(label) for label in np.argsort(-areas, kind="stable")[:MOST_PARTS] if areas[label] >= least]
    if len(large) < 2:
        return [logits]
    at = ndimage.distance_transform_edt(~np.isin(labels, large), return_distances=False, return_indices=True)
    nearest = labels[tuple(at)]
    columns = ndimage.center_of_mass(labels > 0, labels, large)
    owners = [label for _, label in sorted(zip((c for _, c in columns), large, strict=True))]
    outside = -logits.abs() - 1e-3
    return [torch.where(torch.from_numpy(nearest == o).to(logits.device), logits, outside) for o in owners]
