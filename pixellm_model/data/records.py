"""Records of annotated images, with masks still encoded, and the samples decoded from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pixellm_model.errors import DataError
from pixellm_model.image_file import MAX_PIXELS, decode
from pixellm_model.samples import Mask, Question, Sample

EXIF_ORIENTATION = 0x0112
_COUNTS = re.compile(r"[0-o]*")  # the characters of COCO's compressed RLE


@dataclass(frozen=True)
class EncodedMask:
    """One target's mask, encoded.

    Attributes:
        segmentation: Polygons as flat lists of x, y in pixels, or COCO RLE.
        without: Polygons that are cut out of it.
    """

    segmentation: list[list[float]] | dict[str, Any]
    without: list[list[float]] | None = None

    def decode(self, height: int, width: int) -> Mask:
        """The mask, (height, width) bool; overlapping polygons are merged."""
        mask = _decoded(self.segmentation, height, width)
        return mask & ~_decoded(self.without, height, width) if self.without else mask


@dataclass(frozen=True)
class EncodedQuestion:
    """A `samples.Question` whose masks are still encoded."""

    text: str
    answer: str
    masks: tuple[EncodedMask, ...]
    phrases: tuple[str, ...]
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Record:
    """One image of a data set.

    Attributes:
        name: Names it in messages.
        image: Path of the image.
        questions: The questions about it.
        split: Its split, None if the data set has none.
    """

    name: str
    image: Path
    questions: tuple[EncodedQuestion, ...]
    split: str | None = None

    def sample(self) -> Sample:
        """Read the image and decode the masks.

        Raises:
            DataError: The image cannot be read.
        """
        try:
            pixels = np.array(decode(self.image.read_bytes(), formats=None))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.name}: the image {self.image.name} cannot be read ({error}).") from None
        height, width = pixels.shape[:2]
        return Sample(
            pixels,
            tuple(
                Question(
                    question.text,
                    question.answer,
                    tuple(mask.decode(height, width) for mask in question.masks),
                    question.phrases,
                    question.history,
                )
                for question in self.questions
            ),
        )


class SampleSet(Sequence[Sample]):
    """A sequence of samples, decoded on access.

    Indexing raises DataError for a sample that cannot be read. Iterating leaves it out and adds it to
    `skipped`.

    Attributes:
        records: The records of the samples.
        skipped: What could not be read, and why.
    """

    def __init__(self, records: Sequence[Record], skipped: Sequence[str] = ()):
        self.records = list(records)
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self.records)

    # Slices are not supported.
    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        return self.records[index].sample()

    def __iter__(self) -> Iterator[Sample]:
        for record in self.records:
            try:
                yield record.sample()
            except DataError as error:
                if str(error) not in self.skipped:
                    self.skipped.append(str(error))


def inside(folder: Path, name: object) -> Path:
    """The path of the image `name` in `folder`.

    Raises:
        DataError: It is missing, or lies outside the folder, also through a link.
    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        raise DataError(f"the image's name {name!r:.80} is not a file name")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"the image {name!r:.120} lies outside its folder")
    path = folder / relative
    try:
        exists, within = path.is_file(), path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a name too long for this system, a loop of links
        raise DataError(f"the image {name!r:.120} cannot be looked up") from None
    if not exists:
        raise DataError(f"the image {name!r:.120} is missing in {folder}")
    if not within:
        raise DataError(f"the image {name!r:.120} is a link out of its folder")
    return path


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels after EXIF orientation, read from the header.

    Raises:
        DataError: The header cannot be read, or the image has more than MAX_PIXELS.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"the image {path.name} cannot be read ({error})") from None
    if width * height > MAX_PIXELS:
        raise DataError(f"the image {path.name} has more than {MAX_PIXELS // 10**6} megapixels")
    return (width, height) if turned else (height, width)


def encoded_mask(segmentation: object, size: tuple[int, int], what: str) -> EncodedMask:
    """Check a COCO `segmentation`.

    Args:
        segmentation: The parsed JSON value: polygons or RLE.
        size: Height and width of the image in pixels.
        what: Names the target in messages.

    Returns:
        The mask, safe to decode.

    Raises:
        DataError: It is neither, or does not fit the image.
    """
    if isinstance(segmentation, dict):
        shape = segmentation.get("size")
        if not isinstance(shape, list) or shape != list(size):
            raise DataError(f"the mask of {what!r} is of size {shape!r:.40}, the image of {list(size)}")
        counts = segmentation.get("counts")
        if isinstance(counts, list):
            if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != size[0] * size[1]:
                raise DataError(f"the runs of the mask of {what!r} do not add up to the image's pixels")
        elif not isinstance(counts, str) or not _COUNTS.fullmatch(counts) or not _fills(counts, size):
            raise DataError(f"the mask of {what!r} is not COCO RLE of the image's size")
        return EncodedMask({"size": shape, "counts": counts})
    return EncodedMask(polygons(segmentation, what))


def polygons(value: object, what: str) -> list[list[float]]:
    """Check polygons, given as flat lists of coordinates.

    Raises:
        DataError: There is none, one has fewer than three points, or a coordinate is not a number.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{what!r} has no polygon")
    for polygon in value:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DataError(f"a polygon of {what!r} has fewer than three points")
        if not all(isinstance(x, int | float) and abs(x) < 1e6 for x in polygon):
            raise DataError(f"a polygon of {what!r} has a coordinate that is not a number")
    return [[float(x) for x in polygon] for polygon in value]


def _fills(counts: str, size: tuple[int, int]) -> bool:
    """Whether compressed runs cover an image of `size` exactly; pycocotools reads out of bounds otherwise."""
    runs: list[int] = []
    at = 0
    while at < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if at == len(counts) or shift > 35:
                return False
            bits = ord(counts[at]) - 48
            value |= (bits & 0x1F) << shift
            more, at, shift = bool(bits & 0x20), at + 1, shift + 5
            if not more and bits & 0x10:
                value |= -1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return False
        runs.append(value)
    return sum(runs) == size[0] * size[1]


def _decoded(segmentation: list[list[float]] | dict[str, Any], height: int, width: int) -> Mask:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if isinstance(counts, list):
            flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            return flat.reshape(width, height).T.copy()
        encoded = {"size": segmentation["size"], "counts": counts.encode("ascii")}
        return coco_mask.decode(encoded).astype(bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))).astype(bool)
