"""The protocol: who is let in, what is refused and how, and what answers while others wait."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from backend.settings import BackendSettings
from support.annotations import drawn, event
from support.backend import payload, prompted, running_backend
from support.workers import ROOT, Workers, eventually
from worker.jobs.queue import SegmentQueue
from worker.store import Database
from worker.store.tables import Event

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def alone() -> Iterator[httpx.Client]:
    """A backend whose Redis is out."""
    with running_backend(NOWHERE, max_body_bytes=100_000) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/health"])
def test_health_needs_no_redis(alone: httpx.Client, path: str) -> None:
    response = alone.get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "UP", "model_class": "PixelLM"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "/predict", b"", 400, "The body is not JSON."),
        ("POST", "/predict", b"{", 400, "The body is not JSON."),
        ("POST", "/predict", b"\xff\xfe", 400, "The body is not JSON."),
        ("POST", "/predict", b"[" * 50_000, 400, "The body is not JSON."),
        ("POST", "/predict", b"[]", 400, "what Label Studio sends: the whole"),
        ("POST", "/predict", b"{}", 400, "tasks: field required"),
        (
            "POST",
            "/predict",
            b'{"tasks": [{"id": 1}], "label_config": ""}',
            400,
            "tasks.0.data: field required",
        ),
        ("POST", "/predict", b'{"tasks": [], "label_config": 3}', 400, "label_config"),
        ("POST", "/predict", b" " * 100_001, 413, "MAX_BODY_BYTES"),
        ("POST", "/setup", b"3", 400, "the whole"),
        ("POST", "/webhook", b"{}", 400, "action: field required"),
        ("GET", "/nothing", b"", 404, "There is nothing at /nothing."),
        ("GET", "/predict", b"", 405, "/predict does not take GET."),
        ("POST", "/health", b"", 405, "/health does not take POST."),
    ],
)
def test_bad_requests_get_one_sentence(
    alone: httpx.Client, method: str, path: str, body: bytes, status: int, sentence: str
) -> None:
    response = alone.request(method, path, content=body)
    assert response.status_code == status
    assert set(response.json()) == {"detail"}
    assert sentence in response.json()["detail"]
    assert "Traceback" not in response.text and "\n" not in response.json()["detail"]


def test_a_body_of_undeclared_length_is_cut_off(alone: httpx.Client) -> None:
    response = alone.post("/predict", content=(b" " * 10_000 for _ in range(11)))
    assert response.status_code == 413


def test_unhandled_errors_have_an_id_and_no_traceback(
    alone: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("an internal detail")

    monkeypatch.setattr("backend.http.app.explain", fail)
    response = alone.post("/setup", json=payload("setup"))
    assert response.status_code == 500
    detail = response.json()["detail"]
    assert "an internal detail" not in response.text
    error_id = detail.split()[-1].rstrip(".")
    assert error_id in caplog.text and "an internal detail" in caplog.text


def test_setup_without_redis_answers_in_time(alone: httpx.Client) -> None:
    start = time.monotonic()
    response = alone.post("/setup", json=payload("setup"))
    assert time.monotonic() - start < 3
    assert response.json() == {"model_version": "pixellm (loading)"}


@pytest.mark.parametrize("path", ["/setup", "/health"])
def test_reason_phrases_are_the_usual_ones(alone: httpx.Client, path: str) -> None:
    body = payload("setup") | {"schema": "<View/>"}
    response = alone.get(path) if path == "/health" else alone.post(path, json=body)
    assert (response.status_code, response.reason_phrase) == (200, "OK")


def test_setup_refuses_a_config_without_masks_and_says_why_in_the_status_line(alone: httpx.Client) -> None:
    choices = '<Choices name="light" toName="image"><Choice value="Überbelichtet"/></Choices>'
    xml = f'<View><Image name="image" value="$image"/>{choices}</View>'
    response = alone.post("/setup", json=payload("setup") | {"schema": xml})
    assert response.status_code == 422
    detail = response.json()["detail"]
    assert "nowhere to put masks; add <BrushLabels" in detail
    assert response.reason_phrase == detail.replace("<", "[").replace(">", "]")
    controls = '<BrushLabels name="Ü" toName="image"></BrushLabels>'
    other = alone.post("/setup", json=payload("setup") | {"schema": xml.replace(choices, controls)})
    assert other.status_code == 422 and other.reason_phrase.startswith('The control "?" has no labels')


def test_setup_logs_once_what_a_config_asks_for_in_vain(
    alone: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    body = payload("setup")
    body["schema"] = body["schema"].replace(
        "</View>", '<EllipseLabels name="round" toName="image"><Label value="A"/></EllipseLabels></View>', 1
    )
    for _ in range(2):
        assert alone.post("/setup", json=body).status_code == 200
    assert caplog.text.count('neither written nor learned from: <EllipseLabels name="round">') == 1


def test_setup_names_what_a_new_project_lacks_and_connects(alone: httpx.Client) -> None:
    response = alone.post("/setup", json=payload("setup") | {"schema": "<View/>"})
    assert response.status_code == 200
    assert response.json()["model_version"] == "pixellm (loading)"
    assert "BrushLabels" in response.json()["detail"]


def test_versions_without_redis(alone: httpx.Client) -> None:
    response = alone.get("/versions")
    assert response.status_code == 503
    assert "REDIS_URL" in response.json()["detail"]


@pytest.mark.parametrize("name", ["annotation_created", "start_training"])
def test_webhooks_are_acknowledged(alone: httpx.Client, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert alone.post("/webhook", json=payload(name)).status_code == 200
    assert f"webhook {payload(name)['action']}, project 23" in caplog.text


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    with running_backend(
        NOWHERE, basic_auth_user="label", basic_auth_pass="stüdio", webhook_secret="s3cret"
    ) as client:
        yield client


class TestAuth:
    LOGIN = "Basic " + base64.b64encode("label:stüdio".encode()).decode()

    @pytest.mark.parametrize("path", ["/", "/health"])
    def test_health_is_open(self, guarded: httpx.Client, path: str) -> None:
        assert guarded.get(path).status_code == 200

    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            "",
            "Basic",
            "Basic !!!",
            "Bearer " + LOGIN.split()[1],
            LOGIN[:-4],
            "Basic " + base64.b64encode(b"label:wrong").decode(),
            "Basic " + base64.b64encode(b"label:").decode(),
        ],
    )
    @pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
    def test_wrong_credentials(self, guarded: httpx.Client, path: str, authorization: str | None) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}
        response = guarded.post(path, content=b"{}", headers=headers)
        assert response.status_code == 401
        assert "BASIC_AUTH_USER" in response.json()["detail"]
        assert response.headers["WWW-Authenticate"].startswith("Basic")

    @pytest.mark.parametrize("path", ["/versions", "/metrics", "/nothing"])
    def test_every_other_route_is_closed(self, guarded: httpx.Client, path: str) -> None:
        assert guarded.get(path).status_code == 401

    def test_the_right_login_is_accepted(self, guarded: httpx.Client) -> None:
        headers = {"Authorization": self.LOGIN}
        assert guarded.post("/setup", json=payload("setup"), headers=headers).status_code == 200
        # START_TRAINING brings the login, the other webhooks the header.
        assert guarded.post("/webhook", json=payload("start_training"), headers=headers).status_code == 200

    @pytest.mark.parametrize(("secret", "status"), [("s3cret", 200), ("guess", 401), ("", 401)])
    def test_webhook_secret(self, guarded: httpx.Client, secret: str, status: int) -> None:
        headers = {"X-Webhook-Secret": secret}
        response = guarded.post("/webhook", json=payload("annotation_created"), headers=headers)
        assert response.status_code == status

    def test_the_webhook_secret_opens_nothing_else(self, guarded: httpx.Client) -> None:
        headers = {"X-Webhook-Secret": "s3cret"}
        assert guarded.post("/setup", json=payload("setup"), headers=headers).status_code == 401


def test_setup_versions_and_metrics_with_a_worker(redis_url: str, workers: Workers) -> None:
    with running_backend(redis_url) as client:
        assert client.get("/versions").json() == {"versions": []}
        workers.start("patient", LOAD_S="1")
        eventually(lambda: bool(workers.queue.worker_status()), "the worker announces itself")
        assert client.post("/setup", json=payload("setup")).json() == {"model_version": "pixellm (loading)"}
        eventually(lambda: workers.queue.worker_status()[0].state == "ready", "the worker is ready")
        assert client.post("/setup", json=payload("setup")).json() == {"model_version": "stand-in-1"}
        assert client.get("/versions").json() == {"versions": ["stand-in-1"]}

        client.get("/no/such/path")
        metrics = client.get("/metrics").text
    assert "pixellm_queue_up 1.0" in metrics
    assert 'pixellm_queue_waiting{priority="interactive"} 0.0' in metrics
    assert "pixellm_queue_running 0.0" in metrics
    assert "pixellm_workers_ready 1.0" in metrics
    assert 'pixellm_http_requests_total{route="/setup",status="200"} 2.0' in metrics
    assert 'pixellm_http_request_seconds_count{route="/versions"} 2.0' in metrics
    assert 'route="unknown",status="404"' in metrics and "/no/such/path" not in metrics


def test_metrics_without_redis(alone: httpx.Client) -> None:
    assert "pixellm_queue_up 0.0" in alone.get("/metrics").text


def test_waiting_prompts_do_not_slow_health(redis_url: str, workers: Workers) -> None:
    workers.start("patient")
    queue: SegmentQueue = workers.queue
    with running_backend(redis_url, predict_wait_s=30) as client:
        eventually(lambda: any(w.state == "ready" for w in queue.worker_status()), "the worker is ready")
        statuses: list[int] = []

        def prompt(text: str) -> None:
            statuses.append(client.post("/predict", json=prompted(text)).status_code)

        threads = [threading.Thread(target=prompt, args=("sleep 4",))]
        threads[0].start()
        eventually(lambda: bool(workers.seen()), "the worker is busy")
        threads += [threading.Thread(target=prompt, args=(f"sleep 0 {n}",)) for n in range(63)]
        for thread in threads[1:]:
            thread.start()
        eventually(lambda: queue.depth().interactive == 63, "the others wait")
        took = []
        for _ in range(10):
            start = time.monotonic()
            assert client.get("/health").status_code == 200
            took.append(time.monotonic() - start)
        # Label Studio gives a backend up that has not answered within a second.
        assert sorted(took)[5] < 0.5
        for thread in threads:
            thread.join()
    assert statuses == [200] * 64


class TestProcess:
    def run(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "backend"],
            cwd=ROOT,
            env=os.environ | {"REDIS_URL": NOWHERE} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_serves_and_stops(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = self.run(PORT=str(port))

        def up() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
            except httpx.TransportError:
                assert process.poll() is None
                return False

        try:
            eventually(up, "the backend answers")
        finally:
            process.terminate()
        _, errors = process.communicate(timeout=20)
        assert f"listening on http://127.0.0.1:{port}" in errors and "Traceback" not in errors

    def test_a_busy_port_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = busy.getsockname()[1]
            process = self.run(PORT=str(port))
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 2
        assert len(errors.splitlines()) == 1
        assert f"port {port} (HOST, PORT)" in errors

    def test_a_bad_setting_is_one_line(self) -> None:
        process = self.run(PORT="many")
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 2
        assert len(errors.splitlines()) == 1 and errors.startswith("PORT: ")

    def test_help_describes_each_command(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "backend", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0
        for command in ("serve", "collect", "reconcile"):
            assert any(line.split()[:1] == [command] for line in done.stdout.splitlines())

    def test_an_unknown_command_is_refused(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "backend", "no-such-command"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2 and "invalid choice: 'no-such-command'" in done.stderr


def test_the_webhook_route_stores_an_event_once(redis_url: str, tmp_path: Path) -> None:
    with running_backend(redis_url, data_dir=tmp_path, webhook_secret="s3cret") as client:
        body = event(5, [drawn()])
        assert client.post("/webhook", json=body).status_code == 401
        header = {"X-Webhook-Secret": "s3cret"}
        for _ in range(2):
            answer = client.post("/webhook", json=body, headers=header)
            assert answer.json() == {"status": "ok"}
        other = client.post("/webhook", json={"action": "LABEL_LINK_CREATED"}, headers=header)
        assert other.status_code == 200
        assert client.post("/webhook", content=b"{", headers=header).status_code == 400
    database = Database(BackendSettings(data_dir=tmp_path))
    with database.session() as session:
        (row,) = session.scalars(select(Event))
        assert (row.action, row.project, json.loads(row.body)) == ("ANNOTATION_CREATED", "1", body)
