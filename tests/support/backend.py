"""The real application on a real port, and requests as Label Studio sends them."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette

from backend.http.app import create_app
from backend.http.reasons import ReasonProtocol
from backend.settings import BackendSettings
from support.workers import data_url

PAYLOADS = Path(__file__).parents[1] / "data" / "payloads"
CONFIG = json.loads((PAYLOADS / "prompt.json").read_text())["label_config"]


@contextmanager
def running_backend(redis_url: str, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a backend that lives as long as the context; what it keeps goes with it, unless `data_dir`
    says where."""
    with ExitStack() as stack:
        settings.setdefault("data_dir", Path(stack.enter_context(TemporaryDirectory())))
        app = create_app(BackendSettings(redis_url=redis_url, **settings))
        yield from _served(app)


def _served(app: Starlette) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=ReasonProtocol, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def payload(name: str) -> dict[str, Any]:
    """A recorded request whose tasks hold an image that needs no host."""
    body: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text())
    for task in body.get("tasks", []):
        task["data"]["image"] = data_url()
    return body


def prompted(prompt: str, **task: Any) -> dict[str, Any]:
    """The recorded prompt request with another text; `task` replaces fields of its task."""
    body = payload("prompt")
    body["params"]["context"]["result"][1]["value"]["text"] = [prompt]
    body["tasks"][0] |= task
    return body


def batch(*prompts: str) -> dict[str, Any]:
    """The recorded batch request with one task for each of `prompts`."""
    body = payload("batch") | {"label_config": CONFIG}
    model = body["tasks"][0]
    body["tasks"] = [
        copy.deepcopy(model) | {"id": number, "data": {"image": data_url(), "prompt": prompt}}
        for number, prompt in enumerate(prompts, start=1)
    ]
    return body


def ask(client: httpx.Client, body: dict[str, Any]) -> list[Any]:
    # The standard encoder writes a lone surrogate as an escape, as a browser does.
    response = client.post("/predict", content=json.dumps(body))
    assert response.status_code == 200, response.text
    results: list[Any] = response.json()["results"]
    return results


def said(prediction: dict[str, Any]) -> str:
    """What the answer control shows."""
    (item,) = [item for item in prediction["result"] if item["from_name"] == "answer"]
    assert item["type"] == "textarea" and item["to_name"] == "image"
    (text,) = item["value"]["text"]
    return str(text)


def masks(prediction: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in prediction["result"] if item["type"] == "brushlabels"]
