"""Brush masks as Label Studio stores them: the `rle` of a brush region, to and from arrays.

The bytes are thi.ng's rle-pack of the image's flat RGBA values, high bits first: how many values there are in
32 bits, the bits of one value less one in 5, the bits of four sizes of length less one in 4 each; then runs:
a flag, which of the four sizes in 2 bits, the run's length less one in that size, and one value if the flag
is set, else as many values as the run is long. Zeros fill the last byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COUNT_BITS, WORD_BITS, SIZE_BITS = 32, 5, 4
HEADER_BITS = COUNT_BITS + WORD_BITS + 4 * SIZE_BITS
RUN_HEAD_BITS = 3
VALUE_BITS = 8
CHANNELS = 4
SIZES = np.array([3, 4, 8, 16])
LONGEST_RUN = 2**16
MAX_PIXELS = 2**28
# Masks edited in the browser have anti-aliased edges; a pixel more than half covered is inside.
ALPHA_THRESHOLD = 127


def encode(mask: np.ndarray) -> list[int]:
    """The bytes of a mask of shape (height, width); every value that is not zero is inside.

    Equal to what `label_studio_sdk.converter.brush.mask2rle` gives for a mask of 0 and 255.

    >>> encode(np.ones((1, 1), dtype=bool))
    [0, 0, 0, 4, 57, 27, 252, 127, 224]
    """
    if mask.ndim != 2 or not 0 < mask.size <= MAX_PIXELS:
        raise ValueError(
            f"A brush mask has the shape (height, width) and 1 to {MAX_PIXELS} pixels, not {mask.shape}."
        )
    flat = mask.astype(bool, copy=False).ravel()
    ends = np.append(_changes(flat), flat.size)
    lengths, inside = _split_long(np.diff(ends, prepend=0) * CHANNELS, flat[ends - 1])
    # One pixel is four equal values, so that every run is of one value: the flag is always set.
    sizes = np.searchsorted(2 ** SIZES[:3], lengths)
    runs = ((4 + sizes) << SIZES[sizes] | lengths - 1) << VALUE_BITS | inside * 255
    return _pack(flat.size * CHANNELS, runs, RUN_HEAD_BITS + SIZES[sizes] + VALUE_BITS)


def decode(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask in the `rle` of a region whose image is `width` x `height`: bool of shape (height, width).

    A pixel is inside where its alpha is over ALPHA_THRESHOLD. Raises ValueError for anything that is no such
    mask, before it takes more memory than the input and the mask it announces.
    """
    data = _header_checked(rle, height, width)
    starts = _run_starts(data)
    flags = _read(data, starts, 1)
    bits = _sizes(data)[_read(data, starts + 1, 2)]
    lengths = _read(data, starts + RUN_HEAD_BITS, bits) + 1
    ends = np.cumsum(lengths)
    total = height * width * CHANNELS
    needed = int(np.searchsorted(ends, total)) + 1
    if needed > len(ends) or ends[needed - 1] != total:
        raise ValueError(f"The brush RLE does not hold the {total} values that it announces.")

    flags, lengths, values_at = flags[:needed], lengths[:needed], (starts + RUN_HEAD_BITS + bits)[:needed]
    # A run of differing values counts as many runs of one value each.
    parts = np.where(flags, 1, lengths)
    offsets = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    values = _read(data, np.repeat(values_at, parts) + offsets * VALUE_BITS, VALUE_BITS)
    ends = np.cumsum(np.repeat(np.where(flags, lengths, 1), parts))
    # Alpha is every fourth value: a run holds as many as there are multiples of four up to its end.
    pixels = np.diff(ends // CHANNELS, prepend=0)
    return np.repeat(values > ALPHA_THRESHOLD, pixels).reshape(height, width)


def _changes(flat: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before it. Eight are looked at together first: most masks have few
    changes, and looking through the rest value by value would be half of the time."""
    changed = np.zeros(-(-flat.size // 8) * 8, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=changed[1 : flat.size])
    eights = np.flatnonzero(changed.view(np.uint64) != 0)
    nth, within = np.nonzero(changed.reshape(-1, 8)[eights])
    return eights[nth] * 8 + within


def _split_long(lengths: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs over LONGEST_RUN as several: full ones, then the rest."""
    pieces = (lengths - 1) // LONGEST_RUN + 1
    last = np.cumsum(pieces) - 1
    split = np.full(last[-1] + 1, LONGEST_RUN)
    split[last] = lengths - (pieces - 1) * LONGEST_RUN
    return split, np.repeat(inside, pieces)


def _pack(count: int, words: np.ndarray, widths: np.ndarray) -> list[int]:
    """The header and then each word in its width of bits, at most 33 and at least 8."""
    header = count << WORD_BITS | VALUE_BITS - 1
    for size in SIZES.tolist():
        header = header << SIZE_BITS | size - 1
    ends = HEADER_BITS + np.cumsum(widths)
    first_bytes, shifts = np.divmod(ends - widths, 8)
    words = words << (40 - shifts - widths)
    packed = np.zeros(ends[-1] // 8 + 1 + 4, dtype=np.uint8)
    packed[:7] = list((header << 3).to_bytes(7, "big"))
    # Words are wider than a byte, so that no two begin in the same one, and plain indexing adds each of them.
    for nth in range(5):
        packed[first_bytes + nth] |= (words >> (32 - 8 * nth)).astype(np.uint8)
    return packed[:-4].tolist()


def _header_checked(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """The bytes with four zeros behind them, so that reading near the end stays inside."""
    if not isinstance(rle, Sequence) or isinstance(rle, str):
        raise ValueError("The brush RLE is not a list of bytes.")
    try:
        packed = bytes(rle)
    except (TypeError, ValueError) as error:
        raise ValueError("The brush RLE has an entry that is no whole number from 0 to 255.") from error
    if len(packed) * 8 < HEADER_BITS:
        raise ValueError(f"The brush RLE has {len(packed)} bytes, fewer than its header takes.")
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"A brush mask has 1 to {MAX_PIXELS} pixels; this one is {width} x {height}.")
    count = int.from_bytes(packed[:4], "big")
    if count != height * width * CHANNELS:
        raise ValueError(
            f"The brush RLE holds {count} values, but an image of {width} x {height} has "
            f"{height * width * CHANNELS}; check original_width and original_height."
        )
    if packed[4] >> 3 != VALUE_BITS - 1:
        raise ValueError(f"The brush RLE has values of {(packed[4] >> 3) + 1} bits; masks have {VALUE_BITS}.")
    return np.frombuffer(packed + bytes(4), dtype=np.uint8)


def _sizes(data: np.ndarray) -> np.ndarray:
    """The four sizes of length, in bits, that the header gives."""
    return _read(data, np.arange(COUNT_BITS + WORD_BITS, HEADER_BITS, SIZE_BITS), SIZE_BITS) + 1


def _run_starts(data: np.ndarray) -> np.ndarray:
    """The bit at which each run starts. This is the one part that is sequential: a run's head says where the
    next one starts."""
    sizes = _sizes(data).tolist()
    # By the three bits of its head, the width of a run with the flag set.
    widths = [0] * 4 + [RUN_HEAD_BITS + size + VALUE_BITS for size in sizes]
    pairs = memoryview(data[:-1].astype(np.uint16) << 8 | data[1:])
    stop = (len(data) - 4) * 8
    starts = []
    at = HEADER_BITS
    while at < stop:
        starts.append(at)
        head = pairs[at >> 3] >> 13 - (at & 7) & 7
        if head < 4:
            bits = sizes[head]
            window = int.from_bytes(data[at >> 3 : (at >> 3) + 4].tobytes(), "big")
            length = (window >> 32 - (at & 7) - RUN_HEAD_BITS - bits & (1 << bits) - 1) + 1
            at += RUN_HEAD_BITS + bits + length * VALUE_BITS
        else:
            at += widths[head]
    # The last one begun may lack bits: the filling of the last byte, or an input that was cut off.
    if at > stop:
        starts.pop()
    return np.array(starts, dtype=np.int64)


def _read(data: np.ndarray, at: np.ndarray, width: np.ndarray | int) -> np.ndarray:
    """The numbers of `width` bits, at most 16, that begin at the bits `at`."""
    first = at >> 3
    window = data[first].astype(np.int64) << 16 | data[first + 1].astype(np.int64) << 8 | data[first + 2]
    number: np.ndarray = window >> (24 - (at & 7) - width) & (1 << width) - 1
    return number
