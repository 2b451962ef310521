"""From a photo to the tower's input, and from the decoder's logits back to the photo's pixels.

The mean and deviation are ImageNet's, as the reference has them, not CLIP's (docs/model.md). The photo is in
the top left corner; zeros are added to its right and below after normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
STRIP_ROWS = 256


@dataclass(frozen=True)
class ProcessedImage:
    """`pixel_values` (3, S, S) float32; `resized` and `original` are (height, width) in pixels."""

    pixel_values: torch.Tensor
    resized: tuple[int, int]
    original: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.pixel_values.nbytes


def resized_shape(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width after the long side becomes `long_side`, rounded half up as the reference rounds."""
    scale = long_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: Image.Image, long_side: int) -> np.ndarray:
    """Antialiased bilinear resize to `long_side`, enlarging too. Returns (h, w, 3) uint8 RGB."""
    height, width = resized_shape(image.height, image.width, long_side)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)  # a copy: torch refuses to share a read-only buffer


def process_image(image: Image.Image, image_size: int) -> ProcessedImage:
    """Resize, normalise and pad an image for a tower of `image_size`."""
    resized = resize_image(image, image_size)
    height, width = resized.shape[:2]
    pixels = torch.from_numpy(resized).permute(2, 0, 1).float()  # (3, h, w)
    mean, std = torch.tensor(PIXEL_MEAN).view(3, 1, 1), torch.tensor(PIXEL_STD).view(3, 1, 1)
    padded = F.pad((pixels - mean) / std, (0, image_size - width, 0, image_size - height))  # (3, S, S)
    return ProcessedImage(padded, (height, width), (image.height, image.width))


def patch_mask(resized: tuple[int, int], image_size: int, patch_size: int) -> torch.Tensor:
    """Return which patches of the padded square show the image.

    Args:
        resized: Height and width in pixels of the image in the square.
        image_size: Side of the square in pixels.
        patch_size: Side of a patch in pixels.

    Returns:
        (grid, grid) bool, true where a patch's top left pixel lies inside the image.
    """
    starts = torch.arange(0, image_size // patch_size) * patch_size
    return (starts[:, None] < resized[0]) & (starts[None, :] < resized[1])


def restore_masks(
    low_res: torch.Tensor, resized: tuple[int, int], original: tuple[int, int], image_size: int
) -> torch.Tensor:
    """Enlarge mask logits to the photo's size.

    Args:
        low_res: (N, m, m) logits of the padded square.
        resized: Height and width in pixels of the image in the square.
        original: The photo's height and width in pixels, H and W.
        image_size: Side of the square in pixels.

    Returns:
        (N, H, W) float32 logits.
    """
    logits = low_res.float().unsqueeze(1)
    square = F.interpolate(logits, (image_size, image_size), mode="bilinear", align_corners=False)
    cropped = square[..., : resized[0], : resized[1]]
    return F.interpolate(cropped, original, mode="bilinear", align_corners=False)[:, 0]


def mask_strips(
    low_res: torch.Tensor, resized: tuple[int, int], original: tuple[int, int], image_size: int
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield the strips of one target's enlarged logits that contain a positive value.

    The logits are those of `restore_masks`. For a 12-megapixel photo they are 48 MB per target; of the strips
    only one is in memory at a time. An interpolated value never exceeds the samples around it, so that rows
    and columns between negative samples can be left out.

    Args:
        low_res: (m, m) logits of the padded square.
        resized: As in `restore_masks`.
        original: As in `restore_masks`.
        image_size: As in `restore_masks`.

    Yields:
        First row, first column and logits of a strip, from top to bottom.
    """
    square = F.interpolate(
        low_res.float()[None, None], (image_size, image_size), mode="bilinear", align_corners=False
    )
    inside = square[0, 0, : resized[0], : resized[1]]
    rows = _Span.of((inside > 0).any(1), original[0])
    columns = _Span.of((inside > 0).any(0), original[1])
    if rows is None or columns is None:
        return
    wide = torch.lerp(inside[:, columns.first], inside[:, columns.second], columns.part)  # (h, columns)
    for at in range(0, len(rows.part), STRIP_ROWS):
        strip = slice(at, at + STRIP_ROWS)
        yield (
            rows.start + at,
            columns.start,
            torch.lerp(wide[rows.first[strip]], wide[rows.second[strip]], rows.part[strip, None]),
        )


@dataclass(frozen=True)
class _Span:
    """A range of the photo's pixels along one side, and the samples that each is interpolated from.

    `start` is the first pixel; each pixel lies `part` of the way from its `first` sample to its `second`.
    """

    start: int
    first: torch.Tensor
    second: torch.Tensor
    part: torch.Tensor

    @classmethod
    def of(cls, positive: torch.Tensor, size: int) -> _Span | None:
        """The pixels, of `size`, that have a sample which is `positive` for neighbour; None where none is."""
        old = len(positive)
        at = (torch.arange(size, device=positive.device) + 0.5) * (old / size) - 0.5
        at = at.clamp_min(0)
        first = at.long().clamp_max(old - 1)
        second = (first + 1).clamp_max(old - 1)
        near = torch.nonzero(positive[first] | positive[second])
        if not len(near):
            return None
        span = slice(int(near[0]), int(near[-1]) + 1)
        return cls(span.start, first[span], second[span], (at - first)[span])


def mask_scores(logits: torch.Tensor) -> torch.Tensor:
    """Mean confidence inside each mask of (N, H, W) logits: (N,) in 0..1, 0 for an empty mask."""
    inside = logits > 0
    return (logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
