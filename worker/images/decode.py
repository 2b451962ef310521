"""Untrusted bytes to an RGB picture, or one sentence that says why not."""

from __future__ import annotations

from typing import Literal

from PIL import Image
from rq.timeouts import JobTimeoutException

from pixellm_model import image_file

ImageErrorKind = Literal[
    "reference", "address", "unreachable", "timeout", "denied", "not_found", "too_large", "format"
]


class ImageError(Exception):
    """An image that cannot be fetched or decoded; the message is one sentence for the annotator.

    Attributes:
        kind: What went wrong. `reference` is an address without meaning here, `address` one in a private
            network; `format` is a damaged file or an unsupported format; the others are what they say.
    """

    def __init__(self, message: str, kind: ImageErrorKind) -> None:
        super().__init__(message)
        self.kind = kind


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Decode an image file to the picture that a browser shows (`pixellm_model.image_file.decode`).

    Args:
        data: The content of the file. It need not be trusted.
        max_pixels: Larger images are refused before anything is unpacked.

    Returns:
        The picture, upright, mode RGB.

    Raises:
        JobTimeoutException: The time of the RQ job is up.
        ImageError: Of kind `format` for a damaged file or another format than
            `pixellm_model.image_file.FORMATS`, of kind `too_large` for more than `max_pixels`.
    """
    try:
        return image_file.decode(data, max_pixels)
    except image_file.ImageFileError as error:
        if isinstance(error.__cause__, JobTimeoutException):  # the job's time is up, the image may be sound
            raise error.__cause__ from None
        message = str(error)
        if error.kind == "too_large":
            message = f"{message.removesuffix('.')} (MAX_IMAGE_PIXELS)."
        raise ImageError(message, error.kind) from error.__cause__
