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

    def tasks(self, project: str, *, details: bool = True) -> Iterator[dict[str, Any]]:
        """Yield each task of a project once, fetched page by page.

        Args:
            project: The project's number.
            details: Whether the tasks come with all their annotations and predictions.
        """
        seen: set[int] = set()
        page, total = 1, 0
        while page == 1 or (page - 1) * PAGE_SIZE < total:
            tasks, new_total = self._page(project, page, details)
            if new_total < total:
                # Tasks were deleted: those behind them are now on earlier pages.
                page, total = 1, 0
                continue
            for task in tasks:
                if task["id"] not in seen:
                    seen.add(task["id"])
                    yield task
            page, total = page + 1, new_total

    def _page(self, project: str, page: int, details: bool) -> tuple[list[dict[str, Any]], int]:
        """Return the tasks on a page, and how many tasks the project has."""
        params = {"project": project, "page": page, "page_size": PAGE_SIZE}
        try:
            response = self._request(
                "GET", "/api/tasks/", params=params | ({"fields": "all"} if details else {})
            )
        except LabelStudioUnavailable as error:
            # "Invalid page.": there were enough tasks for this page when the one before it was read.
            if error.status == httpx.codes.NOT_FOUND and page > 1:
                return [], -1
            raise
        return response["tasks"], response["total"]

    def unlabelled(self, project: str, limit: int) -> list[dict[str, Any]]:
        """Return the first tasks without an annotation, at most `limit`."""
        return list(islice((task for task in self.tasks(project) if not task.get("annotations")), limit))

    def predict(self, task: int, prediction: dict[str, Any]) -> None:
        """Store a prediction of a task."""
        self._request("POST", "/api/predictions/", json={"task": task, **prediction})

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """Return all predictions of a task."""
        response: list[dict[str, Any]] = self._request("GET", "/api/predictions/", params={"task": task})
        return response

    def replace_prediction(self, number: int, prediction: dict[str, Any]) -> None:
        """Replace the content of the prediction with this number."""
        self._request("PATCH", f"/api/predictions/{number}/", json=prediction)

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
            reason = str(error).rstrip(".") or type(error).__name__
            raise LabelStudioUnavailable(
                f"Label Studio (LABEL_STUDIO_URL) cannot be asked: {reason}."
            ) from error
        if response.is_success:
            return response.json() if response.content else None
        hint = ": LABEL_STUDIO_API_KEY may not do this" if response.status_code in (401, 403) else ""
        raise LabelStudioUnavailable(
            f"Label Studio answered HTTP {response.status_code} to {method} {path}{hint}. "
            f"{response.text[:MAX_ERROR_CHARS]}",
            response.status_code,
        )
