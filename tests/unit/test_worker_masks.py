"""COCO RLE both ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle, is_empty, to_rle


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_every_mask_comes_back(mask: np.ndarray) -> None:
    rle = CocoRLE.model_validate_json(to_rle(mask).model_dump_json())
    assert rle.size == mask.shape
    back = from_rle(rle)
    assert back.dtype == bool and np.array_equal(back, mask)
    assert is_empty(rle) == (not mask.any())


def test_known_encoding() -> None:
    """Column by column, first the count of zeros: 1 zero, 2 ones, 3 zeros, in COCO's characters."""
    mask = np.array([[0, 1, 0], [1, 0, 0]], dtype=bool)
    assert to_rle(mask) == CocoRLE(size=(2, 3), counts="123")


def test_any_memory_order_and_any_nonzero_value() -> None:
    mask = np.zeros((5, 7), dtype=np.uint8)
    mask[1:3, 2:6] = 255
    assert to_rle(mask) == to_rle(np.asfortranarray(mask)) == to_rle(mask[::-1][::-1] > 0)


def test_shape_is_checked() -> None:
    with pytest.raises(ValueError, match="height, width"):
        to_rle(np.zeros((2, 2, 1), dtype=bool))
