"""Painted backgrounds for rendered scenes."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def painted(width: int, height: int, rng: np.random.Generator) -> npt.NDArray[np.floating]:
    """A background without things: a gradient, soft patches, a floor and a wall, stripes or checks.

    Returns:
        (height, width, 3), about 0..255 and not clipped.
    """
    first, second = rng.uniform(20, 245, (2, 3))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    kind = int(rng.integers(5))
    if kind == 0:
        blend = (along - along.min()) / (np.ptp(along) + 1e-6)
    elif kind == 1:
        coarse = Image.fromarray(
            rng.random((int(rng.integers(2, 9)), int(rng.integers(2, 9)))).astype(np.float32)
        )
        blend = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    elif kind == 2:
        blend = (rows > height * rng.uniform(0.35, 0.75)).astype(np.float32)
    elif kind == 3:
        blend = (np.sin(along * rng.uniform(0.03, 0.4)) > 0).astype(np.float32)
    else:
        side = rng.uniform(12, 60)
        blend = ((rows // side + columns // side) % 2).astype(np.float32)
    if kind >= 3:
        second = first + (second - first) * rng.uniform(0.1, 0.5)
    image = first + (second - first) * blend[:, :, None]
    coarse = Image.fromarray(rng.normal(0, rng.uniform(0, 14), (height // 3, width // 3)).astype(np.float32))
    return image + np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))[:, :, None]
