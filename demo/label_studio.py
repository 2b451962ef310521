"""Label Studio for the demo: its own environment, a new database, and a small API client."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from demo import environment
from demo.console import DemoError, step
from demo.environment import ROOT
from demo.services import Service, Services

VERSION = "1.23.2"
CACHE = ROOT / ".demo" / "cache"
USER = "demo@example.com"
START_TIMEOUT_S = 180.0
# Label Studio itself gives a backend 100 s to answer.
PROMPT_TIMEOUT_S = 120.0
DATABASE = "label_studio.sqlite3"
# Label Studio refuses backends at private addresses. Ours is on loopback; the other private networks and the
# link-local addresses of cloud metadata services stay refused.
STILL_REFUSED = "10.0.0.0/8,100.64.0.0/10,169.254.0.0/16,172.16.0.0/12,192.168.0.0/16,fc00::/7,fe80::/10"


def prepare() -> tuple[Path, Path]:
    """Prepare what takes minutes the first time: the environment, and a database to copy."""
    venv = _installed()
    return venv, _migrated_database(venv)


def _installed() -> Path:
    """The environment with Label Studio, created on first use; `LABEL_STUDIO_VENV` names an existing one."""
    if named := os.environ.get("LABEL_STUDIO_VENV"):
        if not (Path(named) / "bin" / "label-studio").is_file():
            raise DemoError(f"LABEL_STUDIO_VENV: {named} has no bin/label-studio.")
        return Path(named)
    venv = ROOT / ".venv-label-studio"
    if not (venv / ".complete").exists():
        constraints = ROOT / "demo" / "label_studio_constraints.txt"
        environment.make(venv, f"Label Studio {VERSION}", constraints, [f"label-studio=={VERSION}"])
    return venv


@dataclass
class LabelStudio:
    """A Label Studio server and its first user, reached through the HTTP API."""

    url: str
    user: str = USER
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    token: str = field(default_factory=lambda: secrets.token_hex(20))

    def __post_init__(self) -> None:
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Token {self.token}"},
            timeout=PROMPT_TIMEOUT_S,
            # A proxy of the environment has no way to this machine's loopback interface.
            trust_env=False,
        )

    def start(self, services: Services, data: Path) -> Service:
        """Start the server with `data` as its new data folder."""
        venv, database = prepare()
        data.mkdir(parents=True)
        shutil.copy(database, data / DATABASE)
        url = httpx.URL(self.url)
        command = [str(venv / "bin" / "label-studio"), "start", "--no-browser", "--enable-legacy-api-token"]
        return services.start(
            "Label Studio",
            [*command, "--internal-host", url.host, "--port", str(url.port)],
            _environment(
                data,
                LABEL_STUDIO_HOST=self.url,
                LABEL_STUDIO_USERNAME=self.user,
                LABEL_STUDIO_PASSWORD=self.password,
                LABEL_STUDIO_USER_TOKEN=self.token,
                LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS="false",
                LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS=STILL_REFUSED,
            ),
            data,
        )

    def is_up(self) -> bool:
        """Whether the server responds."""
        try:
            return self._http.get("/health", timeout=2).is_success
        except httpx.TransportError:
            return False

    def create_project(self, title: str, label_config: str, images: list[Path]) -> int:
        """Create a project with one task for each image file; returns its number."""
        created = self._call("POST", "/api/projects/", json={"title": title, "label_config": label_config})
        project = int(created["id"])
        # Of several files under one field name Label Studio takes the last.
        files = {str(image): (_upload_name(image), image.read_bytes()) for image in images}
        self._call("POST", f"/api/projects/{project}/import", files=files)
        return project

    def task_of(self, project: int, image: Path) -> int:
        """The task that shows the uploaded `image`."""
        listed = self._call("GET", "/api/tasks/", params={"project": project, "page_size": 100})
        # Label Studio puts a prefix before the name of an uploaded file.
        return next(
            int(task["id"])
            for task in listed["tasks"]
            if task["data"]["image"].endswith(f"-{_upload_name(image)}")
        )

    def attach(self, project: int, backend_url: str) -> int:
        """Connect the backend for interactive prompts. Raises DemoError unless it is connected."""
        backend = self._call(
            "POST",
            "/api/ml/",
            json={"project": project, "url": backend_url, "title": "PixelLM", "is_interactive": True},
        )
        if backend.get("state") != "CO":
            raise DemoError(
                f"Label Studio does not reach the backend: {backend.get('error_message') or backend}."
            )
        return int(backend["id"])

    def ask(self, backend: int, task: int, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send results as the editor does on Enter.

        Args:
            backend: Label Studio's number of the backend.
            task: The task's number.
            results: The results on the screen, the typed prompt among them.

        Returns:
            The backend's results.

        Raises:
            DemoError: Label Studio reports that the backend failed.
        """
        answer = self._call(
            "POST",
            f"/api/ml/{backend}/interactive-annotating",
            json={"task": task, "context": {"result": results}},
        )
        if errors := answer.get("errors"):
            raise DemoError(f"The backend failed: {'; '.join(map(str, errors))}.")
        return list(answer["data"]["result"])

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks of a project."""
        listed = self._call("GET", "/api/tasks/", params={"project": project, "page_size": 1000})
        return list(listed["tasks"])

    def annotate(self, task: int, results: list[dict[str, Any]], **fields: Any) -> int:
        """Create an annotation, as Submit does; returns its number."""
        body = {"result": results, "lead_time": 5.0, **fields}
        return int(self._call("POST", f"/api/tasks/{task}/annotations/", json=body)["id"])

    def update(self, annotation: int, results: list[dict[str, Any]]) -> None:
        """Replace an annotation's results, as Update does."""
        self._call("PATCH", f"/api/annotations/{annotation}/", json={"result": results})

    def delete(self, annotation: int) -> None:
        """Delete an annotation."""
        self._call("DELETE", f"/api/annotations/{annotation}/")

    def act(self, project: int, action: str) -> None:
        """Do an action of the Data Manager with all tasks of a project."""
        self._call(
            "POST",
            "/api/dm/actions/",
            params={"id": action, "project": project},
            json={"selectedItems": {"all": True, "excluded": []}},
        )

    def train(self, backend: int) -> None:
        """Start a training, as the button Start Training does."""
        self._call("POST", f"/api/ml/{backend}/train", json={})

    def project(self, project: int) -> dict[str, Any]:
        """A project as the API returns it."""
        return dict(self._call("GET", f"/api/projects/{project}/"))

    def annotations(self, task: int) -> list[dict[str, Any]]:
        """All annotations of a task."""
        return list(self._call("GET", f"/api/tasks/{task}/annotations/"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise DemoError(f"Label Studio does not answer {method} {path}: {error}.") from error
        if not response.is_success:
            raise DemoError(
                f"Label Studio refused {method} {path} ({response.status_code}): {response.text[:300]}"
            )
        return response.json() if response.content else None


def _upload_name(image: Path) -> str:
    """A file name that Label Studio does not change, except for the prefix that it adds."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", image.name)


def _environment(data: Path, **settings: str) -> dict[str, str]:
    """All that the server gets to see: the caller's own LABEL_STUDIO_*, DJANGO_* and proxies stay out."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    quiet = {
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    return inherited | quiet | {"LABEL_STUDIO_BASE_DATA_DIR": str(data)} | settings


def _migrated_database(venv: Path) -> Path:
    """A database with Label Studio's tables and no user: making the tables takes longer than all the rest."""
    database = CACHE / f"label-studio-{VERSION}.sqlite3"
    if not database.exists():
        with step(f"Label Studio {VERSION}: making its database (once)") as close_with:
            CACHE.mkdir(parents=True, exist_ok=True)
            scratch, log = Path(tempfile.mkdtemp(dir=CACHE)), CACHE / "migrating.log"
            with log.open("wb") as output:
                done = subprocess.run(
                    [str(venv / "bin" / "label-studio"), "init", "--quiet"],
                    env=_environment(scratch),
                    cwd=scratch,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            if done.returncode or not (scratch / DATABASE).exists():
                raise DemoError("Label Studio could not make its database.", log)
            # In one step, so that an interrupted run leaves none that is half made.
            (scratch / DATABASE).replace(database)
            shutil.rmtree(scratch)
            close_with(f"Label Studio {VERSION}: database made")
    return database
