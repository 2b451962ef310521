"""Label Studio's brush RLE: encodes masks as the `rle` of a brush region and decodes them.

The bytes are thi.ng's rle-pack of the image's flat RGBA values, most significant bit first:

- header: the number of values (32 bits); bits per value, minus 1 (5 bits); four run length sizes in bits,
each
  minus 1 (4 bits each);
- runs: a flag (1 bit); which of the four sizes (2 bits); the run's length minus 1 (that many bits); then one
  value if the flag is set, else as many values as the run is long;
- zeros up to the end of the last byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]  # (height, width), True inside
_Ints = npt.NDArray[np.integer]
_Bytes = npt.NDArray[np.uint8]

COUNT_BITS, WORD_BITS, SIZE_BITS = 32, 5, 4
PADDING_BYTES = 4  # behind the data, so that reads and writes near its end stay inside
HEADER_BITS = COUNT_BITS + WORD_BITS + 4 * SIZE_BITS
RUN_HEAD_BITS = 3
VALUE_BITS = 8
CHANNELS = 4
SIZES = np.array([3, 4, 8, 16])
LONGEST_RUN = 2**16
MAX_PIXELS = 2**28
# Masks edited in the browser have anti-aliased edges; a pixel more than half covered is inside.
ALPHA_THRESHOLD = 127


def encode(mask: npt.NDArray[np.generic]) -> list[int]:
    """Encode a mask as the `rle` of a brush region.

    The bytes equal those of `label_studio_sdk.converter.brush.mask2rle` for a mask of 0 and 255.

    Args:
        mask: Shape (height, width); values other than zero are inside.

    Returns:
        The bytes as integers from 0 to 255.

    Raises:
        ValueError: The mask has another shape, no pixels, or more than MAX_PIXELS.

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
    # A pixel is four equal values, so every run repeats one value and has its flag set.
    sizes = np.searchsorted(2 ** SIZES[:3], lengths)
    runs = ((4 + sizes) << SIZES[sizes] | lengths - 1) << VALUE_BITS | inside * 255
    return _pack(flat.size * CHANNELS, runs, RUN_HEAD_BITS + SIZES[sizes] + VALUE_BITS)


def decode(rle: Sequence[int], height: int, width: int) -> Mask:
    """Decode the `rle` of a brush region.

    Invalid input is refused before it takes more memory than the input and the announced mask.

    Args:
        rle: Bytes as integers from 0 to 255.
        height: Height of the region's image in pixels.
        width: Width of the region's image in pixels.

    Returns:
        The mask of shape (height, width), True where alpha is over ALPHA_THRESHOLD.

    Raises:
        ValueError: `rle` is not a mask of that size.
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
    # A run of different values counts as that many runs of one value each.
    parts = np.where(flags, 1, lengths)
    offsets = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    values = _read(data, np.repeat(values_at, parts) + offsets * VALUE_BITS, VALUE_BITS)
    ends = np.cumsum(np.repeat(np.where(flags, lengths, 1), parts))
    # Alpha is every fourth value: a run holds as many as there are multiples of four up to its end.
    pixels = np.diff(ends // CHANNELS, prepend=0)
    return np.repeat(values > ALPHA_THRESHOLD, pixels).reshape(height, width)


def _changes(flat: Mask) -> _Ints:
    """Return the positions whose value differs from the one before.

    Eight values are tested at once first: most masks have few changes, and testing every value alone would
    take half of the time of `encode`.
    """
    changed = np.zeros(-(-flat.size // 8) * 8, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=changed[1 : flat.size])
    eights = np.flatnonzero(changed.view(np.uint64) != 0)
    nth, within = np.nonzero(changed.reshape(-1, 8)[eights])
    return eights[nth] * 8 + within


def _split_long(lengths: _Ints, inside: Mask) -> tuple[_Ints, Mask]:
    """Split runs longer than LONGEST_RUN into full ones and a rest."""
    pieces = (lengths - 1) // LONGEST_RUN + 1
    last = np.cumsum(pieces) - 1
    split = np.full(last[-1] + 1, LONGEST_RUN)
    split[last] = lengths - (pieces - 1) * LONGEST_RUN
    return split, np.repeat(inside, pieces)


def _pack(count: int, words: _Ints, widths: _Ints) -> list[int]:
    """Write the header, then each word in its number of bits (8 to 33)."""
    header = count << WORD_BITS | VALUE_BITS - 1
    for size in SIZES.tolist():
        header = header << SIZE_BITS | size - 1
    ends = HEADER_BITS + np.cumsum(widths)
    first_bytes, shifts = np.divmod(ends - widths, 8)
    words = words << (40 - shifts - widths)
    packed = np.zeros(ends[-1] // 8 + 1 + PADDING_BYTES, dtype=np.uint8)
    packed[:7] = list((header << 3).to_bytes(7, "big"))
    # A word is at least a byte wide, so no two begin in the same byte, and `|=` with an index loses none.
    for nth in range(5):
        packed[first_bytes + nth] |= (words >> (32 - 8 * nth)).astype(np.uint8)
    return packed[:-PADDING_BYTES].tolist()


def _header_checked(rle: Sequence[int], height: int, width: int) -> _Bytes:
    """Check the header and return the bytes with PADDING_BYTES zeros behind them."""
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
    return np.frombuffer(packed + bytes(PADDING_BYTES), dtype=np.uint8)


def _sizes(data: _Bytes) -> _Ints:
    """Return the four run length sizes of the header, in bits."""
    return _read(data, np.arange(COUNT_BITS + WORD_BITS, HEADER_BITS, SIZE_BITS), SIZE_BITS) + 1


def _run_starts(data: _Bytes) -> _Ints:
    """Return the bit at which each run starts.

    Only this part is sequential: the head of a run says where the next one starts.
    """
    sizes = _sizes(data).tolist()
    # Width in bits of a run with the flag set, by the three bits of its head.
    widths = [0] * 4 + [RUN_HEAD_BITS + size + VALUE_BITS for size in sizes]
    pairs = (data[:-1].astype(np.uint16) << 8 | data[1:]).data
    stop = (len(data) - PADDING_BYTES) * 8
    starts = []
    position = HEADER_BITS
    while position < stop:
        starts.append(position)
        head = pairs[position >> 3] >> 13 - (position & 7) & 7
        if head < 4:
            bits = sizes[head]
            window = int.from_bytes(data[position >> 3 : (position >> 3) + 4].tobytes(), "big")
            length = (window >> 32 - (position & 7) - RUN_HEAD_BITS - bits & (1 << bits) - 1) + 1
            position += RUN_HEAD_BITS + bits + length * VALUE_BITS
        else:
            position += widths[head]
    # The last run may be incomplete: the zeros of the last byte, or an input that was cut off.
    if position > stop:
        starts.pop()
    return np.array(starts, dtype=np.int64)


def _read(data: _Bytes, positions: _Ints, width: _Ints | int) -> _Ints:
    """Read the numbers of `width` bits (at most 16) that begin at the bits `positions`."""
    first = positions >> 3
    window = data[first].astype(np.int64) << 16 | data[first + 1].astype(np.int64) << 8 | data[first + 2]
    numbers: _Ints = window >> (24 - (positions & 7) - width) & (1 << width) - 1
    return numbers
