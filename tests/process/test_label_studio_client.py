"""Label Studio's tasks are read page by page, each once, whatever is deleted meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from support.image_server import ImageServer, running_server
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
