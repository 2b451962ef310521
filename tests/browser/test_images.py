"""Masks lie where the annotator sees things: the decoder's pixels are those that Chromium shows."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import Page

from support.browser import chromium_path
from support.label_studio import browser_page
from worker.images.decode import ImageError, decode

pytestmark = pytest.mark.browser

MAX_PIXELS = 10_000
ORIENTATION = 0x0112
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    "</rdf:RDF></x:xmpmeta>"
)
READ_PIXELS = """async (source) => {
  const image = new Image();
  image.src = source;
  try { await image.decode(); } catch (error) { return null; }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [canvas.width, canvas.height,
          Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data)];
}"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page(chromium_path()) as page:
        page.set_content("<p>pictures</p>")
        yield page


def picture() -> Image.Image:
    """A picture that looks different however it is turned."""
    image = Image.new("RGB", (48, 24), "red")
    image.paste("blue", (24, 0, 48, 24))
    image.paste("lime", (0, 0, 8, 8))
    return image


def encoded(format: str, orientation: int | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    if orientation is not None:
        options["exif"] = exif(orientation)
    quality: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 95},
    }
    picture().save(file, format, **quality.get(format, {}), **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def png_with(texts: dict[str, str]) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text, zip=len(text) > 2000)
    return encoded("PNG", pnginfo=info)


def png_with_late_exif() -> bytes:
    data, body = encoded("PNG"), exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    end = data.index(b"IEND") - 4
    return data[:end] + chunk + data[end:]


def shown_by(page: Page, data: bytes, format: str) -> np.ndarray | None:
    source = f"data:image/{format.lower()};base64,{base64.b64encode(data).decode()}"
    answer = page.evaluate(READ_PIXELS, source)
    if answer is None:
        return None
    width, height, values = answer
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def assert_the_same(page: Page, data: bytes, format: str) -> None:
    shown, read = shown_by(page, data, format), np.asarray(decode(data, MAX_PIXELS))
    assert shown is not None and shown.shape == read.shape
    assert np.abs(shown.astype(int) - read).mean() < 12


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_pictures_are_turned_as_the_browser_turns_them(
    page: Page, format: str, orientation: int | None
) -> None:
    assert_the_same(page, encoded(format, orientation), format)


@pytest.mark.parametrize("format", ["BMP", "GIF"])
def test_formats_without_exif(page: Page, format: str) -> None:
    assert_the_same(page, encoded(format), format)


def test_xmp_turns_nothing(page: Page) -> None:
    for format in ("JPEG", "WEBP"):
        assert_the_same(page, encoded(format, xmp=XMP.encode()), format)
    assert_the_same(page, png_with({"XML:com.adobe.xmp": XMP}), "PNG")


def test_exif_behind_the_pixels_or_in_a_text_turns_nothing(page: Page) -> None:
    assert_the_same(page, png_with_late_exif(), "PNG")
    data = exif(6).tobytes()
    assert_the_same(
        page, png_with({"Raw profile type exif": f"\nexif\n{len(data):8}\n{data.hex()}\n"}), "PNG"
    )


def test_a_long_text_hinders_neither(page: Page) -> None:
    assert_the_same(page, png_with({"notes": "a" * 3_000_000}), "PNG")


def test_what_the_browser_does_not_show_is_refused(page: Page) -> None:
    data = encoded("TIFF")
    assert shown_by(page, data, "TIFF") is None
    with pytest.raises(ImageError, match="a TIFF file, which browsers do not show"):
        decode(data, MAX_PIXELS)
