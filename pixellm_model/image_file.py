"""Image files to RGB pictures: the one decoder of serving, training, gate and command line. No torch."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF")  # what browsers show
MAX_PIXELS = 100_000_000  # of a local file, unless a caller sets its own limit

# First bytes of formats that photos come in and browsers do not show, and where they stand.
_NOT_SHOWN = (
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("HEIC", 4, (b"ftypheic", b"ftypheix", b"ftyphevc")),
)
# Browsers turn these upright by their EXIF data. They ignore it in WebP, and XMP data everywhere.
_TURNED_BY_EXIF = ("JPEG", "MPO", "PNG", "AVIF")
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Texts and colour profiles are not used, and Pillow refuses pictures with long ones.
_PNG_UNUSED = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_PNG_CHUNK_BYTES = 12  # length, type and checksum

# Python's warning filters and Pillow's pixel limit belong to the whole process, so only one thread at a time
# may change them.
_process_wide_lock = threading.Lock()


class ImageFileError(ValueError):
    """A file that is not a usable image; the message is one sentence.

    Attributes:
        kind: `format` for a damaged file or an unsupported format, `too_large` for too many pixels.
    """

    def __init__(self, message: str, kind: Literal["format", "too_large"]) -> None:
        super().__init__(message)
        self.kind = kind


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = FORMATS
) -> Image.Image:
    """Decode an image file to the picture that a browser shows.

    The first frame is taken, turned upright where browsers do so. Transparent pixels are composited on
    white. Of 16-bit channels the high byte is kept; images without a known value range are stretched to
    0..255.

    Args:
        data: The content of the file. It need not be trusted.
        max_pixels: Larger images are refused. The header tells the size, so nothing is unpacked first.
        formats: Pillow's names of the accepted formats; None accepts every format that Pillow reads.

    Returns:
        The picture, mode RGB.

    Raises:
        ImageFileError: The file is damaged, of another format or too large.
    """
    try:
        with _process_wide_lock, _pillow_limit(max_pixels), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks about odd files would fill the log
            image = Image.open(io.BytesIO(_without_unused_chunks(data)), formats=formats)
            width, height = image.size
            if width * height > max_pixels:
                raise _too_many_pixels(f"{width} x {height} pixels", max_pixels)
            turn = _turn(image)  # before the rest is read: browsers ignore EXIF data behind the pixels
            # A frame may turn out to be larger than the header says.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image.load()
            return _to_rgb(turn(image))
    except (ImageFileError, MemoryError):
        raise
    except UnidentifiedImageError:
        if name := _not_shown(data):
            raise ImageFileError(
                f"This is a {name} file, which browsers do not show; convert it to PNG or JPEG.", "format"
            ) from None
        supported = f" of a supported kind ({', '.join(formats)})" if formats else " that Pillow can read"
        raise ImageFileError(f"This is not an image{supported}.", "format") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_many_pixels("too many pixels", max_pixels) from None
    except Exception as error:  # Pillow's decoders raise exceptions of every kind on broken files
        raise ImageFileError(
            f"The image file is damaged and cannot be read ({type(error).__name__}).", "format"
        ) from error


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Replace Pillow's own limit, which would refuse what a larger `max_pixels` allows."""
    own_limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = own_limit


def _too_many_pixels(size: str, max_pixels: int) -> ImageFileError:
    return ImageFileError(f"The image has {size}; at most {max_pixels:,} are accepted.", "too_large")


def _not_shown(data: bytes) -> str | None:
    """Return the name of a known format that browsers do not show."""
    return next((name for name, at, starts in _NOT_SHOWN if data[at:].startswith(starts)), None)


def _without_unused_chunks(data: bytes) -> bytes:
    """Leave chunks out of a PNG file; what is no PNG, or broken, stays as it is."""
    if not data.startswith(_PNG_SIGNATURE) or not any(kind in data for kind in _PNG_UNUSED):
        return data
    kept, view, start = [data[: len(_PNG_SIGNATURE)]], memoryview(data), len(_PNG_SIGNATURE)
    while start + _PNG_CHUNK_BYTES <= len(data):
        length = int.from_bytes(view[start : start + 4], "big")
        end = start + _PNG_CHUNK_BYTES + length
        if bytes(view[start + 4 : start + 8]) not in _PNG_UNUSED:
            kept.append(bytes(view[start:end]))
        start = end
    return b"".join([*kept, data[start:]])


def _turn(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that turns a picture upright, if a browser would."""
    if image.format in FORMATS or image.format in _TURNED_BY_EXIF:
        exif = Image.Exif()
        if image.format in _TURNED_BY_EXIF and image.info.get("exif"):
            with suppress(Exception):  # browsers ignore broken EXIF data
                exif.load(image.info["exif"])
        method = _TRANSPOSES.get(exif.get(ExifTags.Base.Orientation, 1))
        return lambda picture: picture if method is None else picture.transpose(method)
    return ImageOps.exif_transpose


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Browsers show the high byte, and the annotator's picture is the one to segment.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretched(np.asarray(image, dtype=np.float64))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _stretched(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Map the smallest value to 0 and the largest to 255."""
    values = np.nan_to_num(values)
    low, high = values.min(), values.max()
    return ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
