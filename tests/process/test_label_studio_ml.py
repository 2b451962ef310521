"""The backend hosted by label-studio-ml from PyPI, in an environment of its own: its pins exclude ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from support.annotations import deletion, drawn, event
from support.backend import masks, payload, prompted, said
from support.workers import ROOT, Workers, eventually
from worker.settings import Settings
from worker.store import Database
from worker.store.tables import Event, Proposal

pytestmark = [pytest.mark.isolated, pytest.mark.timeout(1800)]

ENVIRONMENT = ROOT / ".venv-label-studio-ml"
PYTHON = ENVIRONMENT / "bin" / "python"
HOST = "label-studio-ml==1.0.9"
# What this project needs to ask a question; label-studio-ml itself lacks redis and rq.
NEEDS = [
    "alembic",
    "croniter",
    "fsspec",
    "httpx",
    "numpy",
    "pillow",
    "pycocotools",
    "pydantic",
    "pydantic-settings",
    "redis>=8.1,<9",
    "rq>=3.0,<3.1",
    "sqlalchemy",
]
SERVER = """
import sys
from label_studio_ml.api import init_app
from backend.label_studio_ml import PixelLM
init_app(PixelLM, model_dir=sys.argv[2]).run("127.0.0.1", int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The environment's interpreter; built at the first run, and finished only if `complete` says of what."""
    complete, wanted = ENVIRONMENT / "complete", "\n".join([HOST, *NEEDS])
    if not complete.exists() or complete.read_text() != wanted:
        run(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT))
        run(str(PYTHON), "-m", "pip", "install", "--quiet", HOST)
        run(str(PYTHON), "-m", "pip", "install", "--quiet", *NEEDS)
        run(str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps", "--editable", str(ROOT))
        complete.write_text(wanted)
    return PYTHON


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def client(python: Path, redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "server.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(python), "-c", SERVER, str(port), str(tmp_path)],
            cwd=tmp_path,
            env=os.environ
            | {
                "REDIS_URL": redis_url,
                "DATA_DIR": str(tmp_path / "data"),
                "PREDICT_WAIT_S": "20",
                "BATCH_WAIT_S": "20",
            },
            stdout=output,
            stderr=output,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def up() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        try:
            eventually(up, "label-studio-ml answers")
            yield client
        finally:
            process.kill()
            process.wait()


def test_setup_and_predictions(client: httpx.Client, workers: Workers) -> None:
    workers.start("patient")
    eventually(lambda: any(w.state == "ready" for w in workers.queue.worker_status()), "a worker is ready")

    setup = payload("setup") | {"schema": payload("prompt")["label_config"]}
    assert client.post("/setup", json=setup).status_code == 200

    (prediction,) = results(client, prompted("the circle"))
    assert len(masks(prediction)) == 1 and masks(prediction)[0]["value"]["rle"]
    assert said(prediction).startswith("the circle, after 0 turns")
    assert prediction["model_version"] == "stand-in-1"

    assert results(client, payload("empty_context")) == [{"result": []}]
    first, second = results(client, payload("batch"))
    assert len(masks(first)) == len(masks(second)) == 1


def test_projects_and_webhooks_reach_the_loop(client: httpx.Client, workers: Workers, tmp_path: Path) -> None:
    workers.start("patient")
    eventually(lambda: any(w.state == "ready" for w in workers.queue.worker_status()), "a worker is ready")
    setup = payload("setup") | {"schema": payload("prompt")["label_config"]}
    assert client.post("/setup", json=setup).status_code == 200
    database = Database(Settings(data_dir=tmp_path / "data"))
    body = prompted("the circle")
    body["tasks"][0]["project"] = 7
    results(client, body)

    def proposals() -> list[str]:
        with database.read() as session:
            return list(session.scalars(select(Proposal.project)))

    eventually(lambda: proposals() == ["7"], "what was shown is recorded for the project")
    for sent in (event(5, [drawn()], project=7), deletion(5, project=7)):
        assert client.post("/webhook", json=sent).status_code == 201

    def events() -> list[tuple[str, str | None]]:
        with database.read() as session:
            return sorted((row.action, row.project) for row in session.scalars(select(Event)))

    eventually(
        lambda: events() == [("ANNOTATIONS_DELETED", "7"), ("ANNOTATION_CREATED", "7")], "both are stored"
    )


def results(client: httpx.Client, body: dict[str, object]) -> list[dict[str, object]]:
    response = client.post("/predict", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    found: list[dict[str, object]] = response.json()["results"]
    return found
