"""What we ask of Label Studio's API: annotations as they are, predictions stored, a version's name.

Answers stay the JSON they are, as webhooks are: the SDK's typed objects would be a second form of the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx

from worker.label_studio import LabelStudioSite, SiteError
from worker.settings import Settings

PAGE = 50
TIMEOUT_S = 60.0


class LabelStudioUnavailable(Exception):
    """Label Studio cannot be asked, or refuses; the message says which and what to do.

    Attributes:
        status: The HTTP status of a refusal, None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioApi:
    """One client of LABEL_STUDIO_URL with LABEL_STUDIO_API_KEY. All methods raise LabelStudioUnavailable."""

    def __init__(self, settings: Settings) -> None:
        if not (settings.label_studio_url and settings.label_studio_api_key):
            raise LabelStudioUnavailable("Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to ask Label Studio.")
        site = LabelStudioSite(settings.label_studio_url, settings.label_studio_api_key)
        self._client = httpx.Client(
            base_url=settings.label_studio_url.rstrip("/"), auth=site.auth, timeout=TIMEOUT_S, trust_env=False
        )

    def close(self) -> None:
        self._client.close()

    def project(self, project: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/api/projects/{project}/")
        return found

    def task(self, task: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/api/tasks/{task}/")
        return found

    def tasks(self, project: str) -> Iterator[dict[str, Any]]:
        """All tasks with all their annotations, page by page."""
        page = 1
        while True:
            found = self._ask(
                "GET",
                "/api/tasks/",
                params={"project": project, "fields": "all", "page": page, "page_size": PAGE},
            )
            tasks = found["tasks"] if isinstance(found, dict) else found
            yield from tasks
            if len(tasks) < PAGE:
                return
            page += 1

    def unlabelled(self, project: str, most: int) -> list[dict[str, Any]]:
        """The first tasks without an annotation."""
        return list(islice((task for task in self.tasks(project) if not task.get("annotations")), most))

    def predict(self, task: int, prediction: dict[str, Any]) -> None:
        """Stores a prediction of a task."""
        self._ask("POST", "/api/predictions/", json={"task": task, **prediction})

    def name_version(self, project: str, version: str) -> None:
        """Makes `version` the one whose predictions are shown and order the tasks."""
        self._ask("PATCH", f"/api/projects/{project}/", json={"model_version": version})

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._client.request(method, path, **more)
        except SiteError as error:  # a personal token that is not valid
            raise LabelStudioUnavailable(str(error)) from error
        except httpx.HTTPError as error:
            raise LabelStudioUnavailable(
                f"Label Studio (LABEL_STUDIO_URL) cannot be asked: {error or type(error).__name__}."
            ) from error
        if response.is_success:
            return response.json() if response.content else None
        mend = ": LABEL_STUDIO_API_KEY may not do this" if response.status_code in (401, 403) else ""
        raise LabelStudioUnavailable(
            f"Label Studio answered HTTP {response.status_code} to {method} {path}{mend}. "
            f"{response.text[:200]}",
            response.status_code,
        )
