"""Outlines of masks, and polygons that follow them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from backend.label_studio.contours import fill, trace, without_small_parts
from backend.label_studio.polygons import (
    MAX_POINTS,
    MAX_POINTS_IN_ALL,
    MAX_POLYGONS,
    from_polygon,
    to_polygons,
)

MASKS = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))
EIGHT = np.ones((3, 3))


def disk(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def filled(polygons: list[list[list[float]]], height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for points in polygons:
        mask |= from_polygon(points, height, width)
    return mask


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@given(MASKS)
@settings(max_examples=300)
def test_outlines_filled_give_the_mask_back(mask: np.ndarray) -> None:
    loops = trace(mask)
    again = np.zeros_like(mask)
    for loop in loops:
        again ^= fill(loop.points, *mask.shape)
    assert (again == mask).all()
    assert sum(-loop.area if loop.is_hole else loop.area for loop in loops) == mask.sum()


@given(MASKS)
@settings(max_examples=300)
def test_parts_touch_at_corners_and_holes_at_edges(mask: np.ndarray) -> None:
    loops = trace(mask)
    assert sum(not loop.is_hole for loop in loops) == ndimage.label(mask, EIGHT)[1]
    assert sum(loop.is_hole for loop in loops) == ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1


@given(MASKS, st.integers(0, 30))
@settings(max_examples=200)
def test_small_parts_go_and_small_holes_are_filled(mask: np.ndarray, area: int) -> None:
    before = mask.copy()
    cleaned = without_small_parts(mask, area)
    assert (mask == before).all()
    assert all(loop.area >= area for loop in trace(cleaned))
    assert (without_small_parts(cleaned, area) == cleaned).all()


def test_an_island_in_a_pinhole_goes_with_it() -> None:
    mask = np.ones((20, 20), bool)
    mask[5:10, 5:10] = False
    mask[7, 7] = True
    assert without_small_parts(mask, 26).all()
    assert (without_small_parts(mask, 2) == mask).sum() == 399, "only the island"


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@settings(max_examples=200, deadline=None)
def test_polygons_of_any_mask_are_within_the_bounds(mask: np.ndarray) -> None:
    polygons = to_polygons(mask)
    assert bool(polygons) == bool(mask.any()) and len(polygons) <= MAX_POLYGONS
    for points in polygons:
        assert len(points) >= 3 and (np.array(points) >= 0).all() and (np.array(points) <= 100).all()
        from_polygon(points, *mask.shape)


def test_a_polygon_follows_its_mask() -> None:
    mask = disk(600, 800, 400, 300, 200)
    (points,) = to_polygons(mask)
    assert len(points) < 60 and iou(filled([points], 600, 800), mask) > 0.98
    square = np.zeros((10, 10), bool)
    square[2:5, 3:9] = True
    (points,) = to_polygons(square)
    assert sorted(points) == [[30, 20], [30, 50], [90, 20], [90, 50]]


def test_parts_are_polygons_and_holes_are_cut_out() -> None:
    mask = disk(600, 800, 300, 300, 200) & ~disk(600, 800, 250, 300, 60) & ~disk(600, 800, 400, 300, 40)
    mask |= disk(600, 800, 650, 100, 50)
    ring, small = to_polygons(mask)
    assert iou(filled([ring, small], 600, 800), mask) > 0.97
    assert not from_polygon(ring, 600, 800)[300, [250, 400]].any()
    pinhole = disk(600, 800, 300, 300, 200) & ~disk(600, 800, 300, 300, 5)
    assert filled(to_polygons(pinhole), 600, 800)[300, 300], "less than a hundredth of its part"


def test_points_are_bounded_in_all() -> None:
    wild = ndimage.gaussian_filter(np.random.default_rng(1).random((400, 600)), 2) > 0.5
    polygons = to_polygons(wild)
    in_all = sum(map(len, polygons))
    assert in_all <= MAX_POINTS_IN_ALL * 1.2, "the cuts to the holes come on top"
    assert max(map(len, polygons)) < MAX_POINTS_IN_ALL and MAX_POINTS < MAX_POINTS_IN_ALL


@pytest.mark.parametrize("points", [None, "abc", [], [[1, 2]], [[1, 2, 3]] * 4, [[0, 0], [1, None], [2, 2]]])
def test_what_is_no_polygon_is_refused(points: object) -> None:
    with pytest.raises(ValueError, match="polygon"):
        from_polygon(points, 10, 10)


def test_points_outside_the_image_are_allowed() -> None:
    assert from_polygon([[-50, -50], [150, -50], [150, 150], [-50, 150]], 6, 8).all()


def test_a_polygon_that_crosses_every_row_again_and_again_is_filled_in_little_memory() -> None:
    zigzag = [[point % 100, 0 if point % 2 else 100] for point in range(4000)]
    tracemalloc.start()
    from_polygon(zigzag, 3000, 400)
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()
    with pytest.raises(ValueError, match="pixels"):
        from_polygon(zigzag, 90_000, 90_000)
