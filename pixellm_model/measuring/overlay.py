"""Draws targets on an image: coloured masks, outlines, phrases and scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pixellm_model.engine.answers import Target
from pixellm_model.samples import Mask

# Distinct on photos and for colour-blind readers (after Okabe and Ito).
COLOURS = [
    (230, 159, 0),
    (0, 158, 233),
    (0, 178, 115),
    (240, 228, 66),
    (213, 70, 130),
    (160, 100, 240),
    (213, 94, 0),
]
MASK_OPACITY = 0.45


def draw_overlay(image: Image.Image, targets: Sequence[Target], caption: str = "") -> Image.Image:
    """Draw targets on a copy of an image.

    Args:
        image: A PIL image in any mode.
        targets: Their masks are (image.height, image.width).
        caption: Text for a white strip below the image; no strip if it is empty.

    Returns:
        An RGB image.
    """
    canvas = np.asarray(image.convert("RGB")).astype(np.float32)
    for number, target in enumerate(targets):
        colour = np.array(COLOURS[number % len(COLOURS)], dtype=np.float32)
        canvas[target.mask] += MASK_OPACITY * (colour - canvas[target.mask])
        canvas[_outline(target.mask)] = colour
    painted = Image.fromarray(canvas.astype(np.uint8))
    font = ImageFont.load_default(size=max(13, image.width // 40))
    pen = ImageDraw.Draw(painted)
    for number, target in enumerate(targets):
        if target.mask.any():
            text = f"{number + 1} {target.phrase} {target.score:.2f}"
            _label(pen, target.mask, text, COLOURS[number % len(COLOURS)], font, painted.size)
    return _captioned(painted, caption, font) if caption else painted


def _outline(mask: Mask) -> Mask:
    grown = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(5))
    return (np.asarray(grown) > 0) & ~mask


def _label(
    pen: ImageDraw.ImageDraw,
    mask: Mask,
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Draw text on a dark plate at the mask's median, inside the image."""
    rows, columns = np.nonzero(mask)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left, bottom - top
    x = float(np.clip(np.median(columns) - width / 2, 4, max(4, size[0] - width - 8)))
    y = float(np.clip(np.median(rows) - height / 2, 4, max(4, size[1] - height - 8)))
    pen.rectangle((x - 4, y - 3, x + width + 4, y + height + 5), fill=(20, 20, 20), outline=colour, width=2)
    pen.text((x - left, y - top), text, fill=(255, 255, 255), font=font)


def _captioned(
    image: Image.Image, caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> Image.Image:
    pen = ImageDraw.Draw(image)
    lines, line = [], ""
    for word in caption.split():
        longer = f"{line} {word}".strip()
        if line and pen.textlength(longer, font=font) > image.width - 20:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    step = int(pen.textbbox((0, 0), "Ag", font=font)[3] * 1.35)
    page = Image.new("RGB", (image.width, image.height + step * len(lines) + 16), (255, 255, 255))
    page.paste(image)
    pen = ImageDraw.Draw(page)
    for number, text in enumerate(lines):
        pen.text((10, image.height + 8 + number * step), text, fill=(20, 20, 20), font=font)
    return page
