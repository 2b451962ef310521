"""Images in `data:` URLs, which are read without a network."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from worker.images.decode import ImageError
from worker.images.fetch import ImageFetcher
from worker.settings import WorkerSettings


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, "PNG")
    return file.getvalue()


def test_an_image_is_read_from_any_form_of_a_data_url() -> None:
    images = ImageFetcher(WorkerSettings())
    encoded = base64.b64encode(png()).decode()
    for reference in (
        f"data:image/png;base64,{encoded}",
        f"DATA:;BASE64,{encoded[:20]}%0A{encoded[20:]}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in png()),
    ):
        assert images.load(reference).size == (8, 6)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("data:image/png;base64", "reference"),
        ("data:image/png;base64,%%%", "reference"),
        ("data:image/png;base64," + "A" * 10_000, "too_large"),
        ("data:image/png," + "A" * 1001, "too_large"),
        ("data:text/html;base64,PGgxPg==", "format"),
    ],
    ids=["no comma", "not base64", "long base64", "long text", "not an image"],
)
def test_an_unusable_data_url_is_refused_in_one_sentence(url: str, kind: str) -> None:
    with pytest.raises(ImageError) as raised:
        ImageFetcher(WorkerSettings(max_image_bytes=1000)).load(url)
    message = str(raised.value)
    assert raised.value.kind == kind and message.endswith(".") and "\n" not in message
