"""One mask of several things, as one mask for each: its connected parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from pixellm_model.engine.answers import Target
from pixellm_model.engine.phrases import asks_for_each
from pixellm_model.masks import mask_box
from pixellm_model.preprocess import ProcessedImage
from pixellm_model.samples import Mask

# Parts that are smaller than this, in cells of the logits or as a share of the largest part, are no things of
# their own; they go with the nearest part that is.
MIN_CELLS = 9
MIN_SHARE = 0.1


def each_on_its_own(
    targets: Sequence[Target],
    low_res: Sequence[torch.Tensor],
    image: ProcessedImage,
    image_size: int,
    question: str,
    limit: int,
) -> tuple[list[Target], tuple[str, ...]]:
    """Split the masks of what a question asks for one by one ("all the dogs"), if the model drew only one.

    Args:
        targets: The targets, with masks of the image's size.
        low_res: For each target its logits (m, m), of the padded square.
        image: The image.
        image_size: The square's side in pixels.
        question: What was asked.
        limit: The most targets there may be.

    Returns:
        The targets, and a sentence for each phrase that was split.
    """
    phrases = [target.phrase for target in targets]
    split: list[Target] = []
    notes: list[str] = []
    for number, (target, logits) in enumerate(zip(targets, low_res, strict=True)):
        room = limit - len(split) - (len(targets) - number - 1)
        parts = [target.mask]
        if phrases.count(target.phrase) == 1 and asks_for_each(question, target.phrase):
            parts = parts_of(target.mask, logits, image.resized, image_size)
        if 1 < len(parts) <= room:
            notes.append(f'"{target.phrase}" was drawn as one mask; each separate part is shown on its own.')
            split += [Target(target.phrase, part, target.score, mask_box(part)) for part in parts]
        else:
            split.append(target)
    return split, tuple(notes)


def parts_of(mask: Mask, logits: torch.Tensor, resized: tuple[int, int], image_size: int) -> list[Mask]:
    """The connected parts of a mask, from left to right.

    They are found at the logits' resolution, which bounds the work however large the image is.

    Args:
        mask: (H, W) bool.
        logits: (m, m), of the padded square; the mask is where they are above 0.
        resized: Height and width of the image within the square, in pixels.
        image_size: The square's side in pixels.

    Returns:
        Masks (H, W) whose union is `mask`.
    """
    labels, count = ndimage.label((logits > 0).cpu().numpy(), np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    large = np.flatnonzero(areas >= max(MIN_CELLS, MIN_SHARE * areas.max()))
    if len(large) < 2:
        return [mask]
    nearest = ndimage.distance_transform_edt(
        ~np.isin(labels, large), return_distances=False, return_indices=True
    )
    owner = labels[tuple(nearest)]
    rows, columns = (
        ((np.arange(length) + 0.5) * size / length * logits.shape[-1] / image_size).astype(int)
        for length, size in zip(mask.shape, resized, strict=True)
    )
    owner = owner[np.ix_(rows, columns)]
    parts = [mask & (owner == label) for label in large]
    return sorted((part for part in parts if part.any()), key=mask_box)
