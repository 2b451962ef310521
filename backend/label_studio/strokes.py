"""Draws brush strokes into a mask: Label Studio stores a draft's newest strokes separately (`touches`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from backend.label_studio.brush_rle import Mask

MAX_POINTS = 100_000
MIN_RADIUS = 0.5  # pixels
# Percent of the image. The editor lets a stroke leave the image; what is farther away cannot be seen in it.
POINT_RANGE = (-100, 200)


def paint(mask: Mask, touches: Sequence[Any]) -> Mask:
    """Draw strokes into a mask, in order.

    Args:
        mask: Shape (height, width); it is not changed.
        touches: Strokes as Label Studio stores them. A stroke is a line through `relativePoints` (x and y in
            percent of width and height) with the width `relativeStrokeWidth` (in percent of the image's
            width) and round ends. The type `eraser` removes, any other adds.

    Returns:
        A new mask of the same shape.

    Raises:
        ValueError: A stroke has no valid points or width.
    """
    height, width = mask.shape
    canvas = Image.fromarray(mask)
    draw = ImageDraw.Draw(canvas)
    for touch in touches:
        points, stroke_width = _parse_stroke(touch)
        points = points * (width / 100, height / 100)
        radius = max(stroke_width * width / 200, MIN_RADIUS)
        ink = 0 if touch.get("type") == "eraser" else 1
        line = [tuple(point) for point in points.tolist()]
        draw.line(line, fill=ink, width=max(1, round(2 * radius)))
        for x, y in line:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return np.array(canvas)


def _parse_stroke(touch: Any) -> tuple[npt.NDArray[np.float64], float]:
    try:
        points = np.asarray(touch["relativePoints"], dtype=np.float64).reshape(-1, 2)
        stroke_width = float(touch["relativeStrokeWidth"])
    except (TypeError, KeyError, ValueError):
        raise ValueError("a brush stroke has no points or no width") from None
    if not 0 < len(points) <= MAX_POINTS or not np.isfinite(points).all() or not 0 <= stroke_width <= 100:
        raise ValueError("a brush stroke has points or a width out of range")
    return points.clip(*POINT_RANGE), stroke_width
