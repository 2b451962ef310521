"""Brush RLE: this project's codec against label-studio-sdk's, in one run.

    python -m benchmarks.brush_rle [--json]

Ratios over 1 mean that ours is faster; each is of the best of several runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle

from backend.label_studio.brush_rle import decode, encode
from pixellm_model.samples import Mask

SIZES = ((640, 480), (1920, 1080), (4000, 3000))
SPECKLE = 0.002


@dataclass(frozen=True)
class Row:
    """The measurements of one mask.

    Attributes:
        size: Width x height in pixels.
        mask: Name of the mask.
        bytes: Length of the encoding.
        encode_s: Seconds to encode.
        sdk_encode_s: Seconds the SDK takes to encode.
        decode_s: Seconds to decode.
        sdk_decode_s: Seconds the SDK takes to decode.
    """

    size: str
    mask: str
    bytes: int
    encode_s: float
    sdk_encode_s: float
    decode_s: float
    sdk_decode_s: float

    @property
    def encode_ratio(self) -> float:
        """The SDK's encoding time over ours."""
        return self.sdk_encode_s / self.encode_s

    @property
    def decode_ratio(self) -> float:
        """The SDK's decoding time over ours."""
        return self.sdk_decode_s / self.decode_s

    def as_json(self) -> dict[str, object]:
        """The measurements and ratios."""
        return asdict(self) | {"encode_ratio": self.encode_ratio, "decode_ratio": self.decode_ratio}


def blobs(width: int, height: int) -> Mask:
    """A mask of three discs of different sizes, like the masks of a scene."""
    y, x = np.ogrid[:height, :width]
    places = ((0.3, 0.3, 0.22), (0.7, 0.4, 0.15), (0.5, 0.8, 0.1))
    discs = [
        (x - width * cx) ** 2 + (y - height * cy) ** 2 < (min(width, height) * radius) ** 2
        for cx, cy, radius in places
    ]
    mask: Mask = np.logical_or.reduce(discs)
    return mask


def measure(name: str, mask: Mask, repeats: int) -> Row:
    """Time both codecs on one mask.

    Args:
        name: Names the mask in the table.
        mask: (H, W) bool.
        repeats: Runs of each; the fastest counts.

    Raises:
        AssertionError: The two codecs disagree.
    """
    height, width = mask.shape
    grey = mask.astype(np.uint8) * 255
    rle = encode(mask)
    assert rle == mask2rle(grey), "the encodings differ"
    assert np.array_equal(decode(rle, height, width), mask), "the mask does not come back"
    return Row(
        size=f"{width}x{height}",
        mask=name,
        bytes=len(rle),
        encode_s=_best(lambda: encode(mask), repeats),
        sdk_encode_s=_best(lambda: mask2rle(grey), repeats),
        decode_s=_best(lambda: decode(rle, height, width), repeats),
        sdk_decode_s=_best(lambda: decode_rle(rle).reshape(height, width, 4)[..., 3] > 127, repeats),
    )


def _best(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON and no table")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the best counts")
    options = parser.parse_args()
    noise = np.random.default_rng(0)
    rows = []
    for width, height in SIZES:
        clean = blobs(width, height)
        speckled = clean ^ (noise.random(clean.shape) < SPECKLE)
        rows += [measure("clean", clean, options.repeats), measure("speckled", speckled, options.repeats)]
    if options.json:
        print(json.dumps([row.as_json() for row in rows], indent=1))
        return
    print("| image | mask | bytes | encode | SDK | ratio | decode | SDK | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.size} | {row.mask} | {row.bytes} "
            f"| {row.encode_s * 1e3:.1f} ms | {row.sdk_encode_s * 1e3:.0f} ms | {row.encode_ratio:.0f}x "
            f"| {row.decode_s * 1e3:.1f} ms | {row.sdk_decode_s * 1e3:.0f} ms | {row.decode_ratio:.0f}x |"
        )


if __name__ == "__main__":
    main()
