"""Label Studio's projects name the version whose scores the Data Manager shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from support.backend import CONFIG, ask, batch, running_backend
from support.image_server import ImageServer, reply, running_server
from support.workers import Workers, eventually

TOKEN = "a-legacy-token"


class LabelStudio:
    """Has one project with one backend; takes a version once it has a prediction of it."""

    def __init__(self, server: ImageServer, model_version: str) -> None:
        self.model_version = model_version
        self.refusals = 1
        self.changes: list[str] = []
        server.routes["/api/projects/12/"] = self._project
        server.routes["/api/ml/"] = reply(b'[{"title": "PixelLM"}]', Content_Type="application/json")

    def _project(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "PATCH":
            change = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
            if self.refusals:
                self.refusals -= 1
                reply(b'["No such model version."]', 400)(handler)
                return
            self.model_version = change["model_version"]
            self.changes.append(self.model_version)
        body = json.dumps({"label_config": CONFIG, "model_version": self.model_version}).encode()
        reply(body, Content_Type="application/json")(handler)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.prompts.shown_version.PAUSES_S", (0.2, 0.2, 0.2))


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


@pytest.mark.parametrize("current", ["PixelLM", "", None, "stand-in-1+0123456789ab"])
def test_a_backend_s_title_or_another_version_of_ours_is_replaced(
    redis_url: str, workers: Workers, server: ImageServer, current: str
) -> None:
    label_studio = LabelStudio(server, current)
    workers.start("patient")
    with running_backend(redis_url, label_studio_url=server.url, label_studio_api_key=TOKEN) as client:
        body = batch("the circle", "the square") | {"project": "12.1795392173"}
        eventually(lambda: bool(ask(client, body)[1]), "the batch is answered")
        eventually(lambda: label_studio.model_version == "stand-in-1", "the version is named")
    assert label_studio.changes == ["stand-in-1"]


def test_a_version_that_somebody_chose_stays(redis_url: str, workers: Workers, server: ImageServer) -> None:
    label_studio = LabelStudio(server, "imported-by-hand")
    workers.start("patient")
    with running_backend(redis_url, label_studio_url=server.url, label_studio_api_key=TOKEN) as client:
        body = batch("the circle", "the square") | {"project": "12.1795392173"}
        eventually(lambda: bool(ask(client, body)[1]), "the batch is answered")
        eventually(lambda: "/api/ml/?project=12" in [path for _, path, _ in server.requests], "it has looked")
    assert label_studio.changes == [] and label_studio.model_version == "imported-by-hand"
