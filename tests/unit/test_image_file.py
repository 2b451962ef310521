"""Serving and training decode an image file to the same pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixellm_model.data.records import Record
from pixellm_model.errors import DataError
from worker.images.decode import ImageError, decode


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


TRANSPARENT = png(Image.new("RGBA", (3, 2), (0, 0, 0, 0)))
HALF_TRANSPARENT = png(Image.new("LA", (3, 2), (10, 128)))
SIXTEEN_BITS = png(Image.fromarray(np.array([[0x0F00, 0x7D80], [0xEAFF, 0xFFFF]], dtype=np.uint16)))


@pytest.mark.parametrize(
    "data",
    [TRANSPARENT, HALF_TRANSPARENT, SIXTEEN_BITS],
    ids=["transparent", "half transparent", "16 bits"],
)
def test_training_sees_the_pixels_that_serving_sees(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    served = np.asarray(decode(data, 1_000_000))
    assert np.array_equal(Record("one", path, ()).sample().image, served)


def test_transparency_is_white_and_sixteen_bits_lose_the_low_byte(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(TRANSPARENT)
    assert (Record("one", path, ()).sample().image == 255).all()
    path.write_bytes(SIXTEEN_BITS)
    assert Record("one", path, ()).sample().image[..., 0].tolist() == [[0x0F, 0x7D], [0xEA, 0xFF]]


def test_a_raised_pixel_limit_holds_although_it_is_above_pillows_own() -> None:
    data = png(Image.new("1", (19_000, 5_000)))
    own_limit = Image.MAX_IMAGE_PIXELS
    assert own_limit is not None and own_limit < 19_000 * 5_000
    assert decode(data, 200_000_000).size == (19_000, 5_000)
    assert own_limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"^The image has 19000 x 5000 pixels; at most 90,000,000 are"):
        decode(data, 90_000_000)
    assert own_limit == Image.MAX_IMAGE_PIXELS


def test_a_data_set_may_have_pictures_of_any_format_that_pillow_reads(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "picture.ppm")
    assert Record("one", tmp_path / "picture.ppm", ()).sample().image[0, 0].tolist() == [1, 2, 3]


def test_an_unreadable_picture_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(TRANSPARENT[:-20])
    for name in ("picture.png", "missing.png"):
        with pytest.raises(DataError, match=rf"one: the image {name} cannot be read \(.+\)\.$"):
            Record("one", tmp_path / name, ()).sample()
