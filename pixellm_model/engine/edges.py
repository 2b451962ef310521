"""Mask logits pulled to the picture's edges by a guided filter, which learns nothing.

He, Sun and Tang, "Guided image filtering" (2013), in its fast form: in each window the logits are taken for a
linear function of the colours, fitted at the decoder's resolution and applied at twice that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pixellm_model.preprocess import PIXEL_MEAN, PIXEL_STD, ProcessedImage

SMOOTH = 1e-3  # how much a window's colours must vary, of 0..1 squared, to count as an edge


def sharpen_all(
    logits: Sequence[torch.Tensor], images: Sequence[ProcessedImage], radius: int
) -> list[torch.Tensor]:
    """Sharpen the logits of several images.

    Args:
        logits: For each image (N, m, m), of the padded square.
        images: The images.
        radius: As in `sharpen`; 0 returns the logits as they are.

    Returns:
        For each image (N, 2m, 2m), or (N, m, m) with a radius of 0.
    """
    if not radius:
        return list(logits)
    return [
        sharpen(each, image.pixel_values, image.resized, radius) if len(each) else each
        for each, image in zip(logits, images, strict=True)
    ]


def sharpen(
    logits: torch.Tensor, pixel_values: torch.Tensor, resized: tuple[int, int], radius: int
) -> torch.Tensor:
    """Logits of one picture's targets at twice their resolution, along its edges.

    Args:
        logits: (N, m, m), of the padded square.
        pixel_values: the square as `process_image` makes it, (3, S, S).
        resized: height and width of the picture in it, in its pixels.
        radius: of the windows, in the logits' cells.

    Returns:
        Logits (N, 2m, 2m); those of the padding are as they were, enlarged.
    """
    side, size = logits.shape[-1], pixel_values.shape[-1]
    enlarged = F.interpolate(logits.float()[:, None], scale_factor=2, mode="bilinear")[:, 0]
    if not len(logits):
        return enlarged
    high, wide = (max(1, (length * side) // size) for length in resized)
    mean, std = (torch.tensor(value, device=logits.device).view(3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
    colours = (pixel_values.to(logits.device).float() * std + mean) / 255
    fine = F.interpolate(colours[None], (2 * side, 2 * side), mode="area")[0, :, : 2 * high, : 2 * wide]
    guide = F.avg_pool2d(fine, 2)  # (3, h, w)
    slope, offset = _fitted(guide, logits[:, :high, :wide].float(), radius)
    both = torch.cat([slope.flatten(0, 1), offset])[None]
    both = F.interpolate(both, (2 * high, 2 * wide), mode="bilinear", align_corners=False)[0]
    slope, offset = both[: -len(logits)].unflatten(0, (-1, 3)), both[-len(logits) :]
    enlarged[:, : 2 * high, : 2 * wide] = (slope * fine).sum(1) + offset
    return enlarged


def _fitted(guide: torch.Tensor, logits: torch.Tensor, radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear function of a guide (3, h, w) that gives (N, h, w) logits around each cell.

    Returns:
        Slopes (N, 3, h, w) and offsets (N, h, w).
    """
    mean = _boxed(guide, radius)
    target = _boxed(logits, radius)
    products = (guide[:, None] * guide).flatten(0, 1)
    spread = _boxed(products, radius).unflatten(0, (3, 3)) - mean[:, None] * mean  # (3, 3, h, w)
    joint = _boxed((logits[:, None] * guide).flatten(0, 1), radius).unflatten(0, (-1, 3))
    joint = joint - target[:, None] * mean  # (N, 3, h, w)
    spread = spread.permute(2, 3, 0, 1) + SMOOTH * torch.eye(3, device=guide.device)
    slope = torch.einsum("hwij,njhw->nihw", torch.linalg.inv(spread), joint)
    offset = target - (slope * mean).sum(1)
    smooth = _boxed(torch.cat([slope.flatten(0, 1), offset]), radius)
    return smooth[: -len(logits)].unflatten(0, (-1, 3)), smooth[-len(logits) :]


def _boxed(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Means of (C, h, w) over windows of 2 radius + 1 cells, cut at the border."""
    for axis in (1, 2):
        length = x.shape[axis]
        total = F.pad(x.double().cumsum(axis), (1, 0) if axis == 2 else (0, 0, 1, 0))
        at = torch.arange(length, device=x.device)
        end, start = (at + radius + 1).clamp_max(length), (at - radius).clamp_min(0)
        counts = (end - start).view((-1, 1) if axis == 1 else (1, -1))
        x = ((total.index_select(axis, end) - total.index_select(axis, start)) / counts).to(x.dtype)
    return x
