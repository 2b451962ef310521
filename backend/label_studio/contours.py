"""Outlines of masks: tracing them along the edges of pixels, filling them, and removing small parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.label_studio.brush_rle import Mask

Points = npt.NDArray[np.float64]  # (n, 2), x and y in pixels; pixel (0, 0) reaches from 0 to 1
MAX_CROSSINGS = 2**20  # of edges and rows that are computed at once

_Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Loop:
    """A closed outline.

    Attributes:
        points: Its corners in order, of shape (n, 2) with x and y in pixels. Pixels that touch at a corner
            are in one outline, which then passes that corner twice.
        is_hole: Whether it is the outline of a hole.
        area: The area that it encloses, holes included, in pixels.
    """

    points: Points
    is_hole: bool
    area: float


def trace(mask: Mask) -> list[Loop]:
    """Trace the outlines of a mask, exactly along the edges of its pixels.

    Args:
        mask: Shape (height, width).

    Returns:
        The outlines of its parts (8-connected) and of their holes (4-connected), from top to bottom.
    """
    if not mask.any():
        return []
    left, top, right, bottom = bounds(mask)
    padded = np.pad(mask[top:bottom, left:right], 1)
    top_left, top_right = padded[:-1, :-1], padded[:-1, 1:]
    bottom_left, bottom_right = padded[1:, :-1], padded[1:, 1:]
    # An outline turns where one or three of the four pixels around a point are inside. Where two are
    # that only touch at the point, two outlines turn.
    turns = top_left ^ top_right ^ bottom_left ^ bottom_right
    falling = top_left & bottom_right & ~top_right & ~bottom_left
    rising = top_right & bottom_left & ~top_left & ~bottom_right
    y, x = np.nonzero(turns | falling | rising)
    twice = np.repeat(np.arange(len(x)), 1 + (falling | rising)[y, x])
    y, x = y[twice], x[twice]
    # The first of two corners at a point goes left; it goes down where the pixel below left is outside.
    second = np.append(False, twice[1:] == twice[:-1])
    down_first = falling[y, x]
    beside = _partners(np.lexsort((second, x, y)))
    above = _partners(np.lexsort((second ^ down_first, y, x)))
    inside_below = bottom_right[y, x]
    offset = np.array([left, top])
    return [
        _loop(np.stack([x[corners], y[corners]], axis=1) + offset, bool(inside_below[corners[0]]))
        for corners in _cycles(beside.tolist(), above.tolist())
    ]


def bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a mask that is not empty; right and bottom are outside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def signed_area(points: Points) -> float:
    """Return a polygon's area; its sign tells in which direction the points go around it."""
    x, y = points.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def fill(points: Points, height: int, width: int) -> Mask:
    """Return the mask of the pixels whose centre is inside a polygon, by the even-odd rule.

    Args:
        points: Shape (n, 2), x and y in pixels; points outside the image are allowed.
        height: Height of the mask.
        width: Width of the mask.
    """
    toggles = np.zeros((height, width + 1), bool)
    start, end = points, np.roll(points, -1, axis=0)
    first = np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5).clip(0, height).astype(np.intp)
    last = np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5).clip(0, height).astype(np.intp)
    run, rise = (end - start).T
    slope = run / np.where(rise == 0, 1, rise)  # level edges cross no row's centre
    counts = last - first
    # In blocks, so that memory is bounded for any polygon.
    block_ends = np.flatnonzero(np.diff(np.cumsum(counts) // MAX_CROSSINGS)) + 1
    for edges in np.split(np.arange(len(points)), block_ends):
        edge = np.repeat(edges, counts[edges])
        before = np.cumsum(counts[edges]) - counts[edges]
        rows = np.arange(len(edge)) - np.repeat(before - first[edges], counts[edges])
        crossing = start[edge, 0] + (rows + 0.5 - start[edge, 1]) * slope[edge]
        columns = np.ceil(crossing - 0.5).clip(0, width).astype(np.intp)
        np.logical_xor.at(toggles, (rows, columns), True)
    filled: Mask = np.logical_xor.accumulate(toggles, axis=1)[:, :width]
    return filled


def without_small_parts(mask: Mask, min_area: float) -> Mask:
    """Remove the parts and fill the holes that are smaller than an area.

    Args:
        mask: Shape (height, width); it is not changed.
        min_area: The least number of pixels that a part or a hole must enclose to stay.
    """
    loops = sorted((loop for loop in trace(mask) if loop.area < min_area), key=lambda loop: loop.area)
    if not loops:
        return mask
    cleaned = mask.copy()
    for loop in loops:
        x, y = loop.points.min(axis=0).astype(int)
        right, bottom = loop.points.max(axis=0).astype(int)
        cleaned[y:bottom, x:right][fill(loop.points - (x, y), bottom - y, right - x)] = loop.is_hole
    return cleaned


def connected_parts(mask: Mask, min_share: float, limit: int) -> list[Mask]:
    """Split a mask into its connected parts (8-connected).

    Args:
        mask: Shape (height, width), not empty.
        min_share: Parts under this share of the largest one's area are no parts of their own; they stay with
            the largest one.
        limit: The most parts; what is left over stays with the largest one.

    Returns:
        The parts, largest first; together they are the mask.
    """
    outlines = sorted((loop for loop in trace(mask) if not loop.is_hole), key=lambda loop: -loop.area)
    outlines = [loop for loop in outlines[:limit] if loop.area >= min_share * outlines[0].area]
    rest, parts = mask.copy(), []
    # The smallest first: it may lie in a hole of another one.
    for loop in reversed(outlines[1:]):
        x, y = loop.points.min(axis=0).astype(int)
        right, bottom = loop.points.max(axis=0).astype(int)
        part = np.zeros_like(mask)
        inside = fill(loop.points - (x, y), bottom - y, right - x)
        part[y:bottom, x:right] = inside & rest[y:bottom, x:right]
        rest &= ~part
        parts.append(part)
    return [rest, *reversed(parts)]


def _partners(order: _Ints) -> _Ints:
    """Return each corner's other end of an edge: in this order, corners are joined two by two."""
    partners = np.empty_like(order)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners


def _cycles(beside: list[int], above: list[int]) -> list[list[int]]:
    """Return the corners of each outline: edges to the side and edges up or down take turns."""
    seen = [False] * len(beside)
    cycles = []
    for first in range(len(beside)):
        corners: list[int] = []
        corner = first
        while not seen[corner]:
            following = beside[corner]
            corners += (corner, following)
            seen[corner] = seen[following] = True
            corner = above[following]
        if corners:
            cycles.append(corners)
    return cycles


def _loop(corners: _Ints, inside_below: bool) -> Loop:
    points = corners.astype(np.float64)
    return Loop(points, not inside_below, abs(signed_area(points)))
