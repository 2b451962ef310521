"""A client of Label Studio's API: reads tasks and annotations, stores predictions, sets a project's version.

Responses stay plain JSON, as webhooks are: the SDK's typed objects would be a second form of the same data.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx

from worker.label_studio import LabelStudioSite, SiteError
from worker.settings import Settings

PAGE_SIZE = 50
TIMEOUT_S = 60.0
MAX_ERROR_CHARS = 200  # of a response, in an error message


class LabelStudioUnavailable(Exception):
    """Label Studio does not answer or refuses; the message says which and what to do.

    Attributes:
        status: The HTTP status of a refusal, None when there was no response.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioClient:
    """A client of LABEL_STUDIO_URL with LABEL_STUDIO_API_KEY.

    All methods and the constructor raise LabelStudioUnavailable.
    """

    def __init__(self, settings: Settings) -> None:
        if not (settings.label_studio_url and settings.label_studio_api_key):
            raise LabelStudioUnavailable("Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to ask Label Studio.")
        site = LabelStudioSite(settings.label_studio_url, settings.label_studio_api_key)
        self._client = httpx.Client(
            base_url=settings.label_studio_url.rstrip("/"), auth=site.auth, timeout=TIMEOUT_S, trust_env=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def project(self, project: str) -> dict[str, Any]:
        """Return a project, with its labeling configuration in `label_config`."""
        response: dict[str, Any] = self._request("GET", f"/api/projects/{project}/")
        return response

    def task(self, task: str) -> dict[str, Any]:
        """Return a task with its data."""
        response: dict[str, Any] = self._request("GET", f"/api/tasks/{task}/")
        return response

    def tasks(self, project: str) -> Iterator[dict[str, Any]]:
        """Yield all tasks of a project with all their annotations, fetched page by page."""
        page = 1
        while True:
            response = self._request(
                "GET",
                "/api/tasks/",
                params={"project": project, "fields": "all", "page": page, "page_size": PAGE_SIZE},
            )
            tasks = response["tasks"] if isinstance(response, dict) else response
            yield from tasks
            if len(tasks) < PAGE_SIZE:
                return
            page += 1

    def unlabelled(self, project: str, limit: int) -> list[dict[str, Any]]:
        """Return the first tasks without an annotation, at most `limit`."""
        return list(islice((task for task in self.tasks(project) if not task.get("annotations")), limit))

    def predict(self, task: int, prediction: dict[str, Any]) -> None:
        """Store a prediction of a task."""
        self._request("POST", "/api/predictions/", json={"task": task, **prediction})

    def backend_titles(self, project: str) -> list[str]:
        """Return the titles of the ML backends that a project is connected to."""
        response = self._request("GET", "/api/ml/", params={"project": project})
        return [str(backend.get("title", "")) for backend in response]

    def set_version(self, project: str, version: str) -> None:
        """Make `version` the one whose predictions the project shows and orders its tasks by."""
        self._request("PATCH", f"/api/projects/{project}/", json={"model_version": version})

    def _request(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._client.request(method, path, **options)
        except SiteError as error:  # a personal token that is not valid
            raise LabelStudioUnavailable(str(error)) from error
        except httpx.HTTPError as error:
            raise LabelStudioUnavailable(
                f"Label Studio (LABEL_STUDIO_URL) cannot be asked: {error or type(error).__name__}."
            ) from error
        if response.is_success:
            return response.json() if response.content else None
        hint = ": LABEL_STUDIO_API_KEY may not do this" if response.status_code in (401, 403) else ""
        raise LabelStudioUnavailable(
            f"Label Studio answered HTTP {response.status_code} to {method} {path}{hint}. "
            f"{response.text[:MAX_ERROR_CHARS]}",
            response.status_code,
        )
