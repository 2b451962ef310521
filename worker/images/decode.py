"""Untrusted bytes to an RGB picture, or one sentence saying why not."""

from __future__ import annotations

import io
import threading
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

# Python's warning filters belong to the whole process, so only one thread at a time may change them.
_one_at_a_time = threading.Lock()

ImageErrorKind = Literal[
    "reference", "address", "unreachable", "timeout", "denied", "not_found", "too_large", "format"
]


class ImageError(Exception):
    """An image that cannot be had or used; the message is one sentence for the annotator."""

    def __init__(self, message: str, kind: ImageErrorKind) -> None:
        super().__init__(message)
        self.kind = kind


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The picture as a browser shows it: upright by EXIF, first frame, on white where transparent; mode RGB.

    Raises ImageError of kind `format` for anything but a sound file of `FORMATS`, and of kind `too_large`
    for more than `max_pixels`, which is known from the header before anything is unpacked.
    """
    try:
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about odd files, one per image, into the log
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > max_pixels:
                raise _too_many_pixels(f"{width} x {height} pixels", max_pixels)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"This is not an image of a supported kind ({', '.join(FORMATS)}).", "format"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_many_pixels("too many pixels", max_pixels) from None
    except Exception as error:  # decoders meet broken files with exceptions of every kind
        raise ImageError(
            f"The image file is damaged and cannot be read ({type(error).__name__}).", "format"
        ) from error


def _too_many_pixels(has: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"The image has {has}; at most {max_pixels:,} are accepted (MAX_IMAGE_PIXELS).", "too_large"
    )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # A browser shows the high byte, and the annotator's picture is the one to segment.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretched(np.asarray(image, dtype=np.float64))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _stretched(values: np.ndarray) -> np.ndarray:
    """uint8 from numbers without a known range: the least becomes 0, the greatest 255."""
    values = np.nan_to_num(values)
    low, high = values.min(), values.max()
    return ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
