"""The part of Label Studio's API that pre-labelling uses, played by a real HTTP server."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.backend import CONFIG
from support.image_server import ImageServer, reply

PROJECT = "12"


class LabelStudioApi:
    """One project. Pages, totals and the 404 behind the last page are as Label Studio 1.23 gives them.

    `on_page` is called with the number of each page before it is answered, `on_store` and `on_prediction`
    with the number and the content of each new prediction; a status that they return is answered instead.
    """

    def __init__(self, server: ImageServer, tasks: list[dict[str, Any]], config: str = CONFIG) -> None:
        self.url = server.url
        self.tasks = tasks
        self.stored: dict[int, dict[str, Any]] = {}
        self.model_version = "PixelLM"
        self.views: dict[str, list[int]] = {}  # the tasks that each view's filters let through
        self.config = config
        self.on_page: Callable[[int], int | None] = lambda page: None
        self.on_store: Callable[[int], int | None] = lambda number: None
        self.on_prediction: Callable[[dict[str, Any]], int | None] = lambda prediction: None
        self.pages: list[int] = []
        self._server = server
        self._numbers = itertools.count(1)
        server.routes[f"/api/projects/{PROJECT}/"] = self._project
        server.routes[f"/api/projects/{PROJECT}/model-versions/"] = self._versions
        server.routes["/api/tasks/"] = self._tasks
        server.routes["/api/predictions/"] = self._predictions
        server.routes["/api/ml/"] = reply(b'[{"title": "PixelLM"}]', Content_Type="application/json")

    def predictions(self, task: int) -> list[dict[str, Any]]:
        return [prediction for prediction in self.stored.values() if prediction["task"] == task]

    def writes(self) -> list[str]:
        """The paths of everything that was sent to be stored."""
        return [path for method, path, _ in self._server.requests if method != "GET"]

    def _project(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "PATCH":
            self.model_version = body_of(handler)["model_version"]
        answer(
            handler,
            {
                "title": "Things on tables",
                "label_config": self.config,
                "model_version": self.model_version,
                "task_number": len(self.tasks),
            },
        )

    def _tasks(self, handler: BaseHTTPRequestHandler) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
        page, size = int(query["page"]), int(query["page_size"])
        self.pages.append(page)
        if (status := self.on_page(page)) is not None:
            answer(handler, {"detail": "Service unavailable."}, status)
            return
        tasks = self.tasks
        if (view := query.get("view")) is not None:
            if view not in self.views:
                answer(handler, {"detail": "Not found."}, 404)
                return
            tasks = [task for task in tasks if task["id"] in self.views[view]]
        start = (page - 1) * size
        if start >= len(tasks) and page > 1:
            answer(handler, {"detail": "Invalid page."}, 404)
            return
        rows = [self._row(task, query.get("fields") == "all") for task in tasks[start : start + size]]
        answer(handler, {"tasks": rows, "total": len(tasks)})

    def _versions(self, handler: BaseHTTPRequestHandler) -> None:
        answer(handler, Counter(prediction["model_version"] for prediction in self.stored.values()))

    def _row(self, task: dict[str, Any], details: bool) -> dict[str, Any]:
        if details:
            return {"annotations": [], "drafts": []} | task | {"predictions": self.predictions(task["id"])}
        row = {name: value for name, value in task.items() if name != "annotations"}
        return row | {"total_annotations": len(task.get("annotations", []))}

    def _predictions(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "GET":
            query = parse_qs(urlsplit(handler.path).query)
            answer(handler, self.predictions(int(query["task"][0])))
            return
        number = next(self._numbers)
        prediction = body_of(handler) | {"id": number}
        status = self.on_store(number) or self.on_prediction(prediction)
        if status is None or status == 502:  # a proxy that lost the response
            self.stored[number] = prediction
            self._server.routes[f"/api/predictions/{number}/"] = self._prediction
        answer(handler, prediction if status is None else ["Refused."], status or 201)

    def _prediction(self, handler: BaseHTTPRequestHandler) -> None:
        number = int(urlsplit(handler.path).path.split("/")[3])
        self.stored[number] |= body_of(handler)
        answer(handler, self.stored[number])


def body_of(handler: BaseHTTPRequestHandler) -> Any:
    return json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))


def answer(handler: BaseHTTPRequestHandler, body: object, status: int = 200) -> None:
    reply(json.dumps(body).encode(), status, Content_Type="application/json")(handler)
