"""Reconciling with an API like Label Studio's: nothing is forgotten because pages shift."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_collect import corrections, make, process_all, send

from backend.corrections import jobs
from backend.corrections.collector import Collector
from backend.corrections.reconcile import reconcile
from backend.label_studio.client import LabelStudioUnavailable
from support.annotations import XML, deletion, drawn, event
from support.image_server import ImageServer, running_server
from support.label_studio_api import PROJECT, LabelStudioApi
from support.label_studio_api import answer as respond

NUMBER = int(PROJECT)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


class Site(LabelStudioApi):
    """A project with an annotation in each task; each annotation and task can be asked for by its id."""

    def __init__(self, server: ImageServer, count: int) -> None:
        super().__init__(server, [task_with_annotation(number) for number in range(1, count + 1)], XML)
        self.gone: set[int] = set()
        self.status = 404  # of what is gone
        for number in range(1, count + 1):
            server.routes[f"/api/annotations/{number}/"] = self._one_annotation
            server.routes[f"/api/tasks/{number}/"] = self._one_task

    def delete(self, *numbers: int) -> None:
        self.gone |= set(numbers)
        self.tasks = [task for task in self.tasks if task["id"] not in numbers]

    def _one_annotation(self, handler: Any) -> None:
        number = int(urlsplit(handler.path).path.split("/")[3])
        if number in self.gone:
            respond(handler, {"detail": "Not found."}, self.status)
        else:
            respond(handler, task_with_annotation(number)["annotations"][0])

    def _one_task(self, handler: Any) -> None:
        respond(handler, task_with_annotation(int(urlsplit(handler.path).path.split("/")[3])))


def task_with_annotation(number: int, version: int = 0) -> dict[str, Any]:
    body = event(number, [drawn()], version=version, project=NUMBER)
    return body["task"] | {"annotations": [body["annotation"]]}


@pytest.fixture
def collector(
    server: ImageServer, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Collector]:
    collector = make(tmp_path, redis_url, label_studio_url=server.url, label_studio_api_key="a-legacy-token")
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    yield collector
    collector.database.close()


def states(collector: Collector) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in corrections(collector).values():
        counts[row.status] = counts.get(row.status, 0) + 1
    return counts


@pytest.mark.parametrize("count", [50, 100, 150])
def test_full_pages_are_reconciled(collector: Collector, server: ImageServer, count: int) -> None:
    Site(server, count)
    assert reconcile(collector, PROJECT) == {"seen": count, "taken": count, "deleted": 0, "failed": 0}
    assert reconcile(collector, PROJECT) == {"seen": count, "taken": 0, "deleted": 0, "failed": 0}


def test_an_annotation_that_is_on_no_page_is_asked_for(collector: Collector, server: ImageServer) -> None:
    """One task is deleted and another one is made while the pages are read: the total is as before."""
    site = Site(server, 101)
    reconcile(collector, PROJECT)

    def replace_a_task(page: int) -> None:
        if page == 2 and site.tasks[0]["id"] == 1:
            site.delete(1)
            site.tasks.append(task_with_annotation(200))

    site.on_page = replace_a_task
    counts = reconcile(collector, PROJECT)
    assert counts["deleted"] == 0 and states(collector) == {"labelled": 102}, "51 is on no page, 1 was seen"
    assert reconcile(collector, PROJECT)["deleted"] == 1
    assert states(collector) == {"labelled": 101, "deleted": 1} and corrections(collector)["51"].image


@pytest.mark.parametrize("status", [401, 403, 500, 502])
def test_only_a_404_is_a_deletion(collector: Collector, server: ImageServer, status: int) -> None:
    site = Site(server, 3)
    reconcile(collector, PROJECT)
    site.delete(2)
    site.status = status
    with pytest.raises(LabelStudioUnavailable):
        reconcile(collector, PROJECT)
    assert states(collector) == {"labelled": 3}
    site.status = 404
    assert reconcile(collector, PROJECT)["deleted"] == 1


def test_what_was_forgotten_wrongly_comes_back(collector: Collector, server: ImageServer) -> None:
    Site(server, 3)
    reconcile(collector, PROJECT)
    send(collector, deletion(2, project=NUMBER))
    send(collector, {"action": "TASKS_DELETED", "tasks": [{"id": 3}], "project": {"id": NUMBER}})
    process_all(collector)
    assert states(collector) == {"labelled": 1, "deleted": 3}
    assert reconcile(collector, PROJECT)["taken"] == 2
    assert states(collector) == {"labelled": 3}


def test_what_is_deleted_while_the_pages_are_read_stays_deleted(
    collector: Collector, server: ImageServer
) -> None:
    site = Site(server, 3)

    def delete_one(page: int) -> None:
        send(collector, deletion(2, project=NUMBER))
        process_all(collector)

    site.on_page = delete_one
    reconcile(collector, PROJECT)
    assert states(collector) == {"labelled": 2, "deleted": 1}


def test_one_odd_annotation_keeps_no_other_back(collector: Collector, server: ImageServer) -> None:
    site = Site(server, 3)
    site.tasks[0]["annotations"][0]["updated_at"] = None
    assert reconcile(collector, PROJECT) == {"seen": 3, "taken": 2, "deleted": 0, "failed": 1}


def test_a_project_that_is_gone_is_named_with_what_to_do(
    collector: Collector, server: ImageServer, caplog: pytest.LogCaptureFixture
) -> None:
    send(collector, event(1, [drawn()], project=NUMBER), event(20, [drawn()], project=99))
    process_all(collector)
    Site(server, 3)
    jobs.reconcile_projects(collector)
    assert "python -m backend forget --project 99" in caplog.text
    assert len(corrections(collector)) == 4, "a token that may not see a project is no deletion of it"
    assert json.loads(json.dumps(collector.known_projects())) == [PROJECT, "99"]
