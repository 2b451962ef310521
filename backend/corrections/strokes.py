"""Brush strokes that Label Studio has not merged into a mask yet: drafts hold them beside it (`touches`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

MAX_POINTS = 100_000


def paint(mask: np.ndarray, touches: Sequence[Any]) -> np.ndarray:
    """`mask` (H, W) bool with the strokes on it, in order; a new array.

    A stroke is a line through `relativePoints` (x, y in percent of the image), `relativeStrokeWidth` wide (in
    percent of its width), round at its ends; of type `eraser` it takes away, else it adds. Raises ValueError
    for one that is none.
    """
    height, width = mask.shape
    canvas = Image.fromarray(mask)
    draw = ImageDraw.Draw(canvas)
    for touch in touches:
        points, stroke = _checked(touch)
        points = points * (width / 100, height / 100)
        radius = max(stroke * width / 200, 0.5)
        ink = 0 if touch.get("type") == "eraser" else 1
        line = [tuple(point) for point in points.tolist()]
        draw.line(line, fill=ink, width=max(1, round(2 * radius)))
        for x, y in line:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return np.array(canvas)


def _checked(touch: Any) -> tuple[np.ndarray, float]:
    try:
        points = np.asarray(touch["relativePoints"], dtype=np.float64).reshape(-1, 2)
        stroke = float(touch["relativeStrokeWidth"])
    except (TypeError, KeyError, ValueError):
        raise ValueError("a brush stroke has no points or no width") from None
    if not 0 < len(points) <= MAX_POINTS or not np.isfinite(points).all() or not 0 <= stroke <= 100:
        raise ValueError("a brush stroke has points or a width out of range")
    return points.clip(-100, 200), stroke
