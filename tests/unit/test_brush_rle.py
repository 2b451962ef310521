"""The brush codec against Label Studio's own, in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle

from backend.label_studio.brush_rle import decode, encode

BROWSER = json.loads((Path(__file__).parents[1] / "data" / "brush_rle_browser.json").read_text())
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def rectangle(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : height // 2, width // 3 : width // 2 + 1] = True
    return mask


@given(arrays(bool, SHAPES))
@example(np.zeros((1, 1), dtype=bool))
@example(np.ones((1, 1), dtype=bool))
@example(np.zeros((300, 701), dtype=bool))
@example(np.ones((128, 128), dtype=bool))  # exactly one run of the greatest length
@example(np.ones((128, 129), dtype=bool))
@example(rectangle(333, 517))
@example(np.indices((50, 51)).sum(0) % 2 == 1)
def test_same_bytes_as_label_studio_and_back(mask: np.ndarray) -> None:
    rle = encode(mask)
    assert rle == mask2rle(mask.astype(np.uint8) * 255)
    assert all(type(byte) is int for byte in rle)
    back = decode(rle, *mask.shape)
    assert back.dtype == bool and np.array_equal(back, mask)


@given(SHAPES, st.integers(0, 2**32 - 1), st.floats(0.0, 0.5))
def test_random_pixels_are_encoded_as_by_label_studio(
    shape: tuple[int, int], seed: int, share: float
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    assert encode(mask) == mask2rle(mask.astype(np.uint8) * 255)
    assert np.array_equal(decode(encode(mask), *shape), mask)


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(4))))
def test_any_rgba_is_thresholded_by_its_alpha(rgba: np.ndarray) -> None:
    """Single values, runs that end inside a pixel, every level of alpha."""
    rle = encode_rle(rgba.ravel())
    assert np.array_equal(decode(rle, *rgba.shape[:2]), rgba[..., 3] > 127)


@given(st.data())
def test_runs_of_differing_values(data: st.DataObject) -> None:
    """Written by hand, since Label Studio's encoder never makes longer ones than a single value."""
    alphas = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=70))
    values = [value for alpha in alphas for value in (alpha, 0, 255, alpha)]
    bits = f"{len(values):032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "0" + "11" + f"{len(values) - 1:016b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    rle = list(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    assert decode_rle(rle).tolist() == values
    assert decode(rle, 1, len(alphas)).tolist() == [[alpha > 127 for alpha in alphas]]


@pytest.mark.parametrize("case", BROWSER, ids=lambda case: case["what"])
def test_masks_from_the_browser(case: dict) -> None:
    mask = decode(case["rle"], case["height"], case["width"])
    levels = decode_rle(case["rle"]).reshape(case["height"], case["width"], 4)[..., 3]
    assert mask.sum() == case["inside"] and (levels > 0).sum() == case["touched"]
    assert np.array_equal(mask, levels > 127)


def test_brush_rle_takes_any_memory_order_and_any_nonzero_value() -> None:
    mask = rectangle(30, 50)
    assert encode(np.asfortranarray(mask)) == encode(mask.astype(np.uint8) * 7) == encode(mask)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (4,), (2, 2, 4)])
def test_no_mask_no_bytes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"height, width"):
        encode(np.zeros(shape, dtype=bool))


GOOD = encode(rectangle(20, 30))


@pytest.mark.parametrize(
    ("rle", "size", "sentence"),
    [
        ([], (20, 30), "fewer than its header"),
        (GOOD[:5], (20, 30), "fewer than its header"),
        (GOOD[:10], (20, 30), "does not hold the 2400 values"),
        (GOOD[:-3], (20, 30), "does not hold the 2400 values"),
        (GOOD, (30, 30), "original_width"),
        (GOOD, (0, 30), "1 to"),
        (GOOD, (-20, -30), "1 to"),
        (GOOD, (10**9, 10**9), "1 to"),
        ([*GOOD[:4], 255, *GOOD[5:]], (20, 30), "values of 32 bits"),
        ([*GOOD[:6], 256], (20, 30), "0 to 255"),
        ([*GOOD[:6], -1], (20, 30), "0 to 255"),
        ([*GOOD[:6], 1.5], (20, 30), "0 to 255"),
        ([*GOOD[:6], None], (20, 30), "0 to 255"),
        ("rle", (20, 30), "not a list"),
        (None, (20, 30), "not a list"),
        (10**12, (20, 30), "not a list"),
    ],
)
def test_a_malformed_rle_is_refused(rle: object, size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        decode(rle, *size)  # type: ignore[arg-type]  # wrong types are the point


def test_a_run_past_the_end_is_refused() -> None:
    """The header of a smaller image before the runs of a larger one."""
    smaller = (10 * 30 * 4).to_bytes(4, "big")
    with pytest.raises(ValueError, match="does not hold the 1200 values"):
        decode([*smaller, *encode(np.zeros((20, 30), dtype=bool))[4:]], 10, 30)


def test_few_bytes_cannot_claim_much_memory() -> None:
    """A header that announces a gigabyte of values, and no runs behind it."""
    rle = [*(2**30).to_bytes(4, "big"), *encode(np.ones((1, 1), dtype=bool))[4:]]
    with pytest.raises(ValueError, match="does not hold"):
        decode(rle, 2**14, 2**14)


@given(st.binary(max_size=200), SHAPES)
def test_noise_is_a_mask_or_a_value_error(noise: bytes, shape: tuple[int, int]) -> None:
    height, width = shape
    header = (height * width * 4).to_bytes(4, "big") + bytes([0b00111001])
    try:
        mask = decode(list(header + noise), height, width)
    except ValueError:
        return
    assert mask.shape == shape
