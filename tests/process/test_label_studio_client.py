"""Label Studio's tasks are read page by page, each once, whatever is deleted meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from pydantic import ValidationError

from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from support.image_server import ImageServer, reply, running_server
from support.label_studio_api import PROJECT, LabelStudioApi
from worker.settings import Settings


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


def label_studio(server: ImageServer, count: int) -> tuple[LabelStudioApi, LabelStudioClient]:
    api = LabelStudioApi(server, [{"id": number, "data": {}} for number in range(1, count + 1)])
    settings = Settings(label_studio_url=server.url, label_studio_api_key="a-legacy-token")
    return api, LabelStudioClient(settings)


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 100, 150])
@pytest.mark.parametrize("details", [True, False])
def test_every_task_is_read_once(server: ImageServer, count: int, details: bool) -> None:
    api, client = label_studio(server, count)
    assert [task["id"] for task in client.tasks(PROJECT, details=details)] == list(range(1, count + 1))
    assert api.pages == list(range(1, max(1, -(-count // 50)) + 1))


@pytest.mark.parametrize("count", [120, 101])
def test_no_task_is_missed_when_one_is_deleted_between_pages(server: ImageServer, count: int) -> None:
    api, client = label_studio(server, count)

    def delete_a_task(page: int) -> None:
        if page == 3 and api.tasks[0]["id"] == 1:
            del api.tasks[0]

    api.on_page = delete_a_task
    assert [task["id"] for task in client.tasks(PROJECT)] == list(range(1, count + 1))
    assert api.pages[:4] == [1, 2, 3, 1]


def test_a_task_that_moves_to_an_earlier_page_is_found_there(server: ImageServer) -> None:
    api, client = label_studio(server, 101)

    def delete_a_task(page: int) -> None:
        if page == 2 and len(api.tasks) == 101:
            del api.tasks[0]

    api.on_page = delete_a_task
    assert {task["id"] for task in client.tasks(PROJECT)} == set(range(1, 102))


def test_a_missing_project_is_an_error(server: ImageServer) -> None:
    api, client = label_studio(server, 0)
    api.on_page = lambda page: 404
    with pytest.raises(LabelStudioUnavailable, match="HTTP 404"):
        list(client.tasks(PROJECT))


NO_JSON = [b"<html>Log in</html>", b"\xff"]
OBJECT_READERS: list[Callable[[LabelStudioClient], object]] = [
    lambda client: client.project(PROJECT),
    lambda client: client.task("1"),
    lambda client: list(client.tasks(PROJECT)),
]
LIST_READERS: list[Callable[[LabelStudioClient], object]] = [
    lambda client: client.predictions(1),
    lambda client: client.backend_titles(PROJECT),
]
WRITERS: list[Callable[[LabelStudioClient], object]] = [
    lambda client: client.predict(1, {}),
    lambda client: client.set_version(PROJECT, "1"),
]


@pytest.mark.parametrize(
    ("call", "body"),
    [
        *itertools.product(OBJECT_READERS, [*NO_JSON, b"", b"[]", b"{}", b"7", b'{"detail": "Log in."}']),
        *itertools.product(LIST_READERS, [*NO_JSON, b"", b"{}", b"7", b"[7]"]),
        *itertools.product(WRITERS, NO_JSON),
    ],
)
def test_what_is_not_label_studio_is_an_error(
    server: ImageServer, call: Callable[[LabelStudioClient], object], body: bytes
) -> None:
    for path in (f"projects/{PROJECT}", "tasks", "tasks/1", "ml", "predictions"):
        server.routes[f"/api/{path}/"] = reply(body)
    client = LabelStudioClient(Settings(label_studio_url=server.url, label_studio_api_key="a-legacy-token"))
    with pytest.raises(LabelStudioUnavailable, match="LABEL_STUDIO_URL does not lead to Label Studio"):
        call(client)


def test_a_project_that_makes_no_url_is_an_error(server: ImageServer) -> None:
    _, client = label_studio(server, 0)
    with pytest.raises(LabelStudioUnavailable, match="LABEL_STUDIO_URL"):
        client.project("1\n")


@pytest.mark.parametrize("url", ["http://host:port", "http://a\nb"])
def test_an_address_that_is_no_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ValidationError, match="label_studio_url"):
        Settings(label_studio_url=url)
