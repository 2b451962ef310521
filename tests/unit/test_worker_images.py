"""Untrusted bytes to RGB: orientation, colour modes, caps, and damage of every kind."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixellm_model import image_file
from worker.images.decode import ImageError, decode

MAX_PIXELS = 1_000_000


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = decode(data, MAX_PIXELS)
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def kind(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(ImageError) as raised:
        decode(data, max_pixels)
    assert str(raised.value).endswith(".")
    return raised.value.kind


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF"])
def test_supported_formats(format: str) -> None:
    image = decode(encoded(Image.new("RGB", (8, 6), "white"), format), MAX_PIXELS)
    assert (image.mode, image.size) == ("RGB", (8, 6))


@pytest.mark.parametrize("format", ["ICO", "PPM", "PDF", "EPS", "TGA"])
def test_other_formats_are_refused(format: str) -> None:
    assert kind(encoded(Image.new("RGB", (16, 16)), format)) == "format"


def test_what_browsers_do_not_show_is_named() -> None:
    tiff = encoded(Image.new("RGB", (16, 16)), "TIFF")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name, data in {"TIFF": tiff, "HEIC": heic}.items():
        with pytest.raises(
            ImageError, match=f"a {name} file, which browsers do not show; convert it"
        ) as raised:
            decode(data, MAX_PIXELS)
        assert raised.value.kind == "format"
    assert image_file.decode(tiff, formats=None).size == (16, 16)


def test_long_texts_and_profiles_in_a_png_do_not_hinder() -> None:
    long = zlib.compress(bytes(3_000_000))
    chunks = {
        b"tEXt": b"x\0" + b"a" * 3_000_000,
        b"zTXt": b"x\0\0" + long,
        b"iTXt": b"x\0\1\0\0\0" + long,
        b"iCCP": b"x\0\0" + long,
    }
    data = encoded(Image.new("RGB", (5, 4), (9, 8, 7)), "PNG")
    first, last = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    for name, body in chunks.items():
        for at in (first, last):
            longer = data[:at] + png_chunk(name, body) + data[at:]
            assert pixel(longer, 4, 3) == (9, 8, 7)
            assert pixel(data[:at] + 100 * png_chunk(name, body[:2000]) + data[at:]) == (9, 8, 7)
        assert kind(data[:first] + png_chunk(name, body)[:1000]) == "format"


def test_broken_exif_data_is_ignored_as_browsers_do() -> None:
    data = encoded(Image.new("RGB", (5, 4), (9, 8, 7)), "PNG")
    at = data.index(b"IDAT") - 4
    assert decode(data[:at] + png_chunk(b"eXIf", b"MM\0*\0") + data[at:], MAX_PIXELS).size == (5, 4)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='...'/>"])
def test_what_is_no_image(data: bytes) -> None:
    assert kind(data) == "format"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (40, 20), "black")
    upright.paste("white", (0, 0, 10, 10))
    turn_back = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = upright if turn_back is None else upright.transpose(turn_back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, "JPEG", exif=exif, quality=95), MAX_PIXELS)
    assert image.size == (40, 20)
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).mean() < 8


def test_transparency_is_white_underneath() -> None:
    assert pixel(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 255)), "PNG")) == (255, 0, 0)
    assert pixel(encoded(Image.new("LA", (2, 2), (0, 0)), "PNG")) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    assert pixel(encoded(palette, "PNG")) == (255, 0, 0)
    assert pixel(encoded(palette, "PNG", transparency=1)) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == (
        255,
        255,
        255,
    )


def test_other_colour_modes() -> None:
    assert pixel(encoded(Image.new("L", (2, 2), 7), "PNG")) == (7, 7, 7)
    assert pixel(encoded(Image.new("1", (2, 2), 1), "PNG")) == (255, 255, 255)
    sixteen = Image.fromarray(np.full((2, 2), 0x80FF, dtype=np.uint16))
    assert pixel(encoded(sixteen, "PNG")) == (0x80, 0x80, 0x80)


def test_colour_modes_that_only_python_users_have() -> None:
    def pixel(data: bytes, x: int = 0) -> tuple[int, ...]:
        value = image_file.decode(data, formats=None).getpixel((x, 0))
        assert isinstance(value, tuple)
        return value

    assert pixel(encoded(Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "TIFF")) == (0, 0, 0)
    sixteen = Image.fromarray(np.full((2, 2), 0x80FF, dtype=np.uint16))
    assert pixel(encoded(sixteen, "TIFF")) == (0x80, 0x80, 0x80)
    real = Image.fromarray(np.array([[-1.5, 0.5], [2.5, np.nan]], dtype=np.float32))
    assert [pixel(encoded(real, "TIFF"), x)[0] for x in (0, 1)] == [0, 127]
    assert pixel(encoded(Image.new("F", (2, 2), 3.0), "TIFF")) == (0, 0, 0)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "AVIF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        red, green, blue = pixel(data)
        assert red > 200 and green < 50 and blue < 50


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    data = encoded(Image.new("L", (100, 100)), "PNG")
    assert decode(data, 10_000).size == (100, 100)
    assert kind(data, 9_999) == "too_large"


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_decompression_bombs(side: int) -> None:
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb += png_chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + png_chunk(b"IEND", b"")
    assert kind(bomb) == "too_large"


WHOLE = {
    format: encoded(Image.effect_noise((24, 16), 90).convert("RGB"), format)
    for format in ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF")
}


@given(format=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_damaged_files_give_a_picture_or_one_sentence(format: str, data: st.DataObject) -> None:
    whole = WHOLE[format]
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(broken), MAX_PIXELS).mode == "RGB"
    except ImageError as error:
        assert error.kind in ("format", "too_large")
        assert str(error).endswith(".") and "\n" not in str(error)


def test_truncated_file_is_damaged() -> None:
    assert kind(WHOLE["PNG"][:-40]) == "format"
    assert kind(WHOLE["JPEG"][:-40]) == "format"
