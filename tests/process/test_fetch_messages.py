"""What an annotator is told when an image cannot be fetched, and addresses that browsers accept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from support.image_server import ImageServer, reply, running_server
from worker.images.decode import ImageError
from worker.images.fetch import ImageFetcher
from worker.settings import WorkerSettings

TOKEN = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def label_studio() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, "PNG")
    return file.getvalue()


def fetcher(**settings: Any) -> ImageFetcher:
    return ImageFetcher(WorkerSettings(**settings))


def message(images: ImageFetcher, reference: str, task: str | None = None) -> str:
    with pytest.raises(ImageError) as raised:
        images.load(reference, task)
    return str(raised.value)


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize(
    "query",
    ["X-Amz-Expires=60&X-Amz-Signature=abc", "X-Goog-Signature=abc", "se=2026&sig=abc", "Signature=abc"],
)
def test_an_expired_link_is_called_one(server: ImageServer, status: int, query: str) -> None:
    server.routes["/bucket/cup.png"] = reply(status=status)
    told = message(fetcher(fetch_allow_hosts=server.address), f"{server.url}/bucket/cup.png?{query}")
    assert "expired" in told and "synchronise the storage" in told
    assert "LABEL_STUDIO_URL" not in told and "abc" not in told


def test_a_refusal_without_a_signature_is_about_the_address(server: ImageServer) -> None:
    server.routes["/cup.png"] = reply(status=403)
    assert "LABEL_STUDIO_URL" in message(fetcher(fetch_allow_hosts=server.address), f"{server.url}/cup.png")


def test_a_number_sign_in_a_name_is_named(server: ImageServer) -> None:
    told = message(fetcher(fetch_allow_hosts=server.address), f"{server.url}/cup#1.png")
    assert "%23" in told


def test_files_without_a_storage_say_which_storage_is_needed(label_studio: ImageServer) -> None:
    images = fetcher(label_studio_url=label_studio.url, label_studio_api_key=TOKEN)
    assert "Local Files storage" in message(images, "/data/local-files/?d=imgs/cup.png")
    assert "Cloud Storage" in message(images, "s3://bucket/cup.png", task="7")


@pytest.mark.parametrize("public", ["https://annotate.example.com", "https://example.com/label-studio"])
@pytest.mark.parametrize("subpath", ["", "/here"])
def test_local_files_of_the_public_address_are_fetched_at_label_studio_url(
    label_studio: ImageServer, public: str, subpath: str
) -> None:
    label_studio.routes[f"{subpath}/data/local-files/"] = reply(png())
    images = fetcher(label_studio_url=label_studio.url + subpath, label_studio_api_key=TOKEN)
    assert images.load(f"{public}/data/local-files/?d=a%20b/cup.png").size == (8, 6)
    [(_, path, headers)] = label_studio.requests
    assert path in (
        f"{subpath}/data/local-files/?d=a%20b/cup.png",
        f"{subpath}/data/local-files/?d=a+b%2Fcup.png",
    )
    assert headers["authorization"] == f"Token {TOKEN}"


def test_space_around_and_inside_an_address(server: ImageServer) -> None:
    server.routes["/the%20cup.png"] = reply(png())
    images = fetcher(fetch_allow_hosts=server.address)
    assert images.load(f"  {server.url}/the cup.png\n").size == (8, 6)
