"""Masks as Label Studio's polygons, and back.

A polygon of Label Studio has one outline and no holes. Each part of a mask therefore becomes a polygon of its
own. A hole of at least MIN_HOLE_SHARE of its part is cut out: a cut of no width leads from the outline to the
hole and back. Smaller holes are filled.
"""

from __future__ import annotations

import numpy as np

from backend.label_studio.brush_rle import MAX_PIXELS, Mask
from backend.label_studio.contours import Loop, Points, fill, signed_area, trace

MAX_POLYGONS = 20  # for one mask; the largest parts
MAX_POINTS = 200  # of one outline
MAX_POINTS_IN_ALL = 1000  # of all outlines of one mask
MAX_HOLES = 50  # of one mask; the largest
MAX_TRACED_POINTS = 4000  # of longer outlines every nth corner is looked at
MIN_HOLE_SHARE = 0.01
MIN_PART_SHARE = 0.001  # of the largest part; smaller parts are left out
# How far a polygon may be from the mask's outline: a pixel, or this share of the part's size.
TOLERANCE_PX = 1.0
TOLERANCE_SHARE = 0.005
COARSER = 1.5  # the step in which the tolerance grows until the points suffice
DECIMALS = 3  # of a percent: a twentieth of a pixel in 5,000
MAX_READ_POINTS = 10_000


def to_polygons(mask: Mask) -> list[list[list[float]]]:
    """Return the polygons that follow a mask, largest first.

    Args:
        mask: Shape (height, width).

    Returns:
        Polygons as lists of points [x, y] in percent of the image's width and height. An empty mask has none.
    """
    height, width = mask.shape
    loops = sorted(trace(mask), key=lambda loop: -loop.area)
    parts = [loop for loop in loops if not loop.is_hole][:MAX_POLYGONS]
    parts = [part for part in parts if part.area >= MIN_PART_SHARE * parts[0].area]
    outlines = [[_simplified(part.points, _tolerance(part))] for part in parts]
    holes = [loop for loop in loops if loop.is_hole and loop.area >= MIN_HOLE_SHARE * parts[-1].area]
    for hole in holes[:MAX_HOLES]:
        # The pixel above a hole's first corner belongs to its part: the smallest part around it.
        around = [index for index, part in enumerate(parts) if _encloses(part, hole.points[0] + (0.5, -0.5))]
        if around and hole.area >= MIN_HOLE_SHARE * parts[around[-1]].area:
            outlines[around[-1]].append(_simplified(hole.points, _tolerance(hole)))
    tolerance = _tolerance(parts[0]) if parts else 0
    while sum(len(points) for outline in outlines for points in outline) > MAX_POINTS_IN_ALL:
        tolerance *= COARSER
        outlines = [[_simplified(points, tolerance) for points in outline] for outline in outlines]
    scale = 100 / np.array([width, height])
    return [(_joined(outline) * scale).round(DECIMALS).tolist() for outline in outlines]


def from_polygon(points: object, height: int, width: int) -> Mask:
    """Return the mask of a polygon.

    Args:
        points: Points [x, y] in percent, as Label Studio stores them; it comes from a browser.
        height: Height of the polygon's image in pixels.
        width: Width of the polygon's image in pixels.

    Raises:
        ValueError: It is no polygon.
    """
    if height * width > MAX_PIXELS:
        raise ValueError(f"a polygon's image has at most {MAX_PIXELS} pixels")
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("a polygon's points are not pairs of numbers") from None
    if array.ndim != 2 or array.shape[1] != 2 or not 3 <= len(array) <= MAX_READ_POINTS:
        raise ValueError(f"a polygon has 3 to {MAX_READ_POINTS} points of two numbers")
    if not np.isfinite(array).all() or np.abs(array).max() > 1000:
        raise ValueError("a polygon has points far outside the image")
    return fill(array * (width / 100, height / 100), height, width)


def _encloses(part: Loop, point: Points) -> bool:
    """Whether a point is inside an outline, which goes along the edges of pixels."""
    x, y = part.points.T
    next_x, next_y = np.roll(part.points, -1, axis=0).T
    crossed = (np.minimum(y, next_y) < point[1]) & (point[1] < np.maximum(y, next_y)) & (x < point[0])
    return bool(crossed.sum() % 2) and bool((x == next_x)[crossed].all())


def _tolerance(loop: Loop) -> float:
    return max(TOLERANCE_PX, TOLERANCE_SHARE * float(np.sqrt(loop.area)))


def _simplified(points: Points, tolerance: float) -> Points:
    """Return fewer points, at most MAX_POINTS, that stay within the tolerance."""
    points = points[:: len(points) // MAX_TRACED_POINTS + 1]
    while (kept := _douglas_peucker(points, tolerance)) is None:
        tolerance *= COARSER
    return kept


def _douglas_peucker(points: Points, tolerance: float) -> Points | None:
    """Return the points of a closed outline that Douglas and Peucker's algorithm keeps.

    Returns:
        Three points or more; None if there would be more than MAX_POINTS.
    """
    farthest = int(np.square(points - points[0]).sum(axis=1).argmax())
    closed = np.vstack([points, points[:1]])
    keep = {0, farthest}
    spans = [(0, farthest), (farthest, len(points))]
    while spans:
        if len(keep) > MAX_POINTS:
            return None
        start, end = spans.pop()
        if end - start < 2:
            continue
        distances = _distances(closed[start + 1 : end], closed[start], closed[end])
        middle = start + 1 + int(distances.argmax())
        if distances.max() > tolerance:
            keep.add(middle)
            spans += [(start, middle), (middle, end)]
    if len(keep) < 3 or not signed_area(points[sorted(keep)]):
        # Too small for the tolerance: its corners are few, or its box is near enough.
        return points if len(points) <= 4 else _box(points)
    return points[sorted(keep)]


def _distances(points: Points, start: Points, end: Points) -> Points:
    """Return the distances of points from the segment between two points."""
    along = end - start
    length = float(along @ along)
    share = ((points - start) @ along / length).clip(0, 1) if length else np.zeros(len(points))
    distances: Points = np.linalg.norm(points - start - share[:, None] * along, axis=1)
    return distances


def _box(points: Points) -> Points:
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _joined(outline: list[Points]) -> Points:
    """Join an outline and its holes, each by a cut between their nearest points."""
    joined = outline[0]
    for hole in outline[1:]:
        if signed_area(hole) * signed_area(joined) > 0:
            hole = hole[::-1]
        distances = np.square(joined[:, None] - hole[None]).sum(axis=2)
        at, hole_at = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(hole, -hole_at, axis=0)
        joined = np.vstack([joined[: at + 1], around, around[:1], joined[at:]])
    return joined
