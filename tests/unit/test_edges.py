"""Masks are pulled to the picture's edges."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pixellm_model.engine.edges import sharpen
from pixellm_model.preprocess import process_image

SIDE, SIZE = 32, 256


def test_a_soft_outline_follows_the_colours_and_padding_is_left_alone() -> None:
    pixels = np.zeros((192, 256, 3), np.uint8)
    inside = np.zeros((192, 256), bool)
    for row in range(192):  # a slanted edge, between the cells of the logits
        inside[row, : 60 + row // 2] = True
    pixels[inside], pixels[~inside] = (200, 40, 30), (30, 60, 180)
    image = process_image(Image.fromarray(pixels), SIZE)
    square = torch.zeros(SIZE, SIZE)
    square[:192] = torch.from_numpy(inside).float()
    soft = F.avg_pool2d(F.avg_pool2d(square[None], 8), 5, 1, 2) * 8 - 4  # (1, 32, 32)
    soft[:, 24:] = -7

    def wrong(logits: torch.Tensor) -> float:
        at_size = F.interpolate(logits[None], (SIZE, SIZE), mode="bilinear")[0, 0, :192]
        return float(((at_size > 0) != torch.from_numpy(inside)).float().mean())

    sharp = sharpen(soft, image.pixel_values, image.resized, radius=3)
    assert sharp.shape == (1, 2 * SIDE, 2 * SIDE)
    assert wrong(sharp) < 0.6 * wrong(soft)
    assert torch.equal(sharp[:, 52:], torch.full_like(sharp[:, 52:], -7))


def test_no_target_gives_no_logits() -> None:
    image = process_image(Image.new("RGB", (90, 60)), SIZE)
    assert sharpen(torch.zeros(0, SIDE, SIDE), image.pixel_values, image.resized, 3).shape == (0, 64, 64)
