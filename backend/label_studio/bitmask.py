"""Label Studio's bitmasks: a mask as a PNG in a data URL, opaque where the mask is."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from backend.label_studio.brush_rle import ALPHA_THRESHOLD, Mask


def encode(mask: Mask) -> str:
    """Return a mask as the data URL of a PNG, black on transparent.

    It has a palette of two colours, one bit a pixel: smaller and several times as fast as grey with alpha.

    Args:
        mask: Shape (height, width).
    """
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(bytes(2 * 3))
    file = io.BytesIO()
    picture.save(file, "PNG", bits=1, transparency=bytes([0, 255]))
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def decode(url: str, height: int, width: int) -> Mask:
    """Return the mask in the data URL of a PNG.

    Args:
        url: The data URL; it comes from a browser.
        height: The expected height in pixels.
        width: The expected width in pixels.

    Raises:
        ValueError: It is no PNG of this size.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise ValueError(f"the picture is {image.width} x {image.height}, not {width} x {height}")
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture is damaged ({type(error).__name__})") from error
    return alpha > ALPHA_THRESHOLD
