"""Image files to RGB pictures: the one decoder of serving, training, gate and command line. No torch."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MAX_PIXELS = 100_000_000  # of a local file, unless a caller sets its own limit

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

    The first frame is taken, turned upright by EXIF. Transparent pixels are composited on white. Of 16-bit
    channels the high byte is kept; images without a known value range are stretched to 0..255.

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
            image = Image.open(io.BytesIO(data), formats=formats)
            width, height = image.size
            if width * height > max_pixels:
                raise _too_many_pixels(f"{width} x {height} pixels", max_pixels)
            # A frame may turn out to be larger than the header says.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except (ImageFileError, MemoryError):
        raise
    except UnidentifiedImageError:
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
