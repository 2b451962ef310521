"""Draws masks on an image in the colours of their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from label_config import LabelConfig
from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle

Colour = tuple[int, int, int]

MAX_SIDE = 640  # pixels
OPACITY = 0.45
OUTLINE_PX = 2
UNLABELLED: Colour = (128, 128, 128)
# For labels without a colour of their own (after Okabe and Ito).
PALETTE: Sequence[Colour] = (
    (230, 159, 0),
    (0, 158, 233),
    (0, 178, 115),
    (240, 228, 66),
    (213, 70, 130),
    (160, 100, 240),
    (213, 94, 0),
)


def label_colours(config: LabelConfig) -> dict[str | None, Colour]:
    """Return the colour of each label; that of None is for masks without a label."""
    colours: dict[str | None, Colour] = {None: UNLABELLED}
    for index, label in enumerate(config.labels):
        colours[label.value] = _parse(label.background) or PALETTE[index % len(PALETTE)]
    return colours


def paint(image: Image.Image, masks: Sequence[tuple[CocoRLE, Colour]]) -> Image.Image:
    """Fill and outline masks on a copy of an image, reduced to MAX_SIDE.

    Args:
        image: The image, mode RGB.
        masks: Masks of the image's size with their colours; later ones cover earlier ones.
    """
    picture = image.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    canvas = np.asarray(picture).astype(np.float32)
    for rle, colour in masks:
        alpha = Image.fromarray(from_rle(rle).astype(np.uint8) * 255)
        reduced = alpha.resize(picture.size, Image.Resampling.BILINEAR).point(
            lambda value: 255 * (value > 127)
        )
        inside = np.asarray(reduced) > 0
        edge = inside & (np.asarray(reduced.filter(ImageFilter.MinFilter(2 * OUTLINE_PX + 1))) == 0)
        canvas[inside] += OPACITY * (np.array(colour, np.float32) - canvas[inside])
        canvas[edge] = colour
    return Image.fromarray(canvas.round().astype(np.uint8))


def _parse(background: str) -> Colour | None:
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        return None
