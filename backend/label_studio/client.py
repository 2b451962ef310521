"""A client of Label Studio's API: reads tasks and annotations, stores predictions, sets a project's version.

Responses stay plain JSON, as webhooks are: the SDK's typed objects would be a second form of the same data.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeGuard

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
        return self._read_object(f"/api/projects/{project}/", "label_config")

    def task(self, task: str) -> dict[str, Any]:
        """Return a task with its data."""
        return self._read_object(f"/api/tasks/{task}/", "data")

    def annotation(self, annotation: str) -> dict[str, Any] | None:
        """Return an annotation; None if there is none with this id."""
        try:
            return self._read_object(f"/api/annotations/{annotation}/", "result")
        except LabelStudioUnavailable as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def tasks(
        self, project: str, *, details: bool = True, view: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield each task of a project once, fetched page by page.

        Args:
            project: The project's number.
            details: Whether the tasks come with all their annotations and predictions.
            view: The number of a view (a tab) of its Data Manager, whose filters choose the tasks; None: all.
        """
        seen: set[int] = set()
        page, total = 1, 0
        while page == 1 or (page - 1) * PAGE_SIZE < total:
            tasks, new_total = self._page(project, page, details, view)
            if new_total < total:
                # Tasks were deleted: those behind them are now on earlier pages.
                page, total = 1, 0
                continue
            for task in tasks:
                if task["id"] not in seen:
                    seen.add(task["id"])
                    yield task
            page, total = page + 1, new_total

    def count_tasks(self, project: str, view: str | None = None) -> int:
        """Return how many tasks a project, or a view of it, has."""
        return self._page(project, 1, False, view, size=1)[1]

    def _page(
        self, project: str, page: int, details: bool, view: str | None, size: int = PAGE_SIZE
    ) -> tuple[list[dict[str, Any]], int]:
        """Return the tasks on a page, and how many tasks there are on all pages."""
        params: dict[str, Any] = {"project": project, "page": page, "page_size": size}
        if view is not None:
            params["view"] = view
        try:
            response = self._read_object(
                "/api/tasks/", "tasks", params=params | ({"fields": "all"} if details else {})
            )
        except LabelStudioUnavailable as error:
            # "Invalid page.": there were enough tasks for this page when the one before it was read.
            if error.status == httpx.codes.NOT_FOUND and page > 1:
                return [], -1
            raise
        tasks, total = response["tasks"], response.get("total")
        if not _are_objects(tasks) or not isinstance(total, int):
            raise _not_label_studio("/api/tasks/")
        return tasks, total

    def unlabelled(self, project: str, limit: int) -> list[dict[str, Any]]:
        """Return the first tasks without an annotation, at most `limit`."""
        return list(islice((task for task in self.tasks(project) if not task.get("annotations")), limit))

    def predict(self, task: int, prediction: dict[str, Any]) -> None:
        """Store a prediction of a task."""
        self._request("POST", "/api/predictions/", json={"task": task, **prediction})

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """Return all predictions of a task."""
        return self._read_list("/api/predictions/", params={"task": task})

    def version_counts(self, project: str) -> dict[str, int]:
        """Return how many predictions of each version a project's tasks have."""
        counts = self._request("GET", f"/api/projects/{project}/model-versions/")
        if not isinstance(counts, dict):
            raise _not_label_studio("model-versions")
        return {str(version): count for version, count in counts.items() if isinstance(count, int)}

    def replace_prediction(self, number: int, prediction: dict[str, Any]) -> None:
        """Replace the content of the prediction with this number."""
        self._request("PATCH", f"/api/predictions/{number}/", json=prediction)

    def backend_titles(self, project: str) -> list[str]:
        """Return the titles of the ML backends that a project is connected to."""
        backends = self._read_list("/api/ml/", params={"project": project})
        return [str(backend.get("title", "")) for backend in backends]

    def set_version(self, project: str, version: str) -> None:
        """Make `version` the one whose predictions the project shows and orders its tasks by."""
        self._request("PATCH", f"/api/projects/{project}/", json={"model_version": version})

    def _read_object(self, path: str, key: str, **options: Any) -> dict[str, Any]:
        response = self._request("GET", path, **options)
        if not isinstance(response, dict) or key not in response:
            raise _not_label_studio(path)
        return response

    def _read_list(self, path: str, **options: Any) -> list[dict[str, Any]]:
        response = self._request("GET", path, **options)
        if not _are_objects(response):
            raise _not_label_studio(path)
        return response

    def _request(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._client.request(method, path, **options)
        except SiteError as error:  # a personal token that is not valid
            raise LabelStudioUnavailable(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise LabelStudioUnavailable(
                f"Label Studio (LABEL_STUDIO_URL) cannot be asked: {reason}."
            ) from error
        if response.is_success:
            try:
                return response.json() if response.content else None
            except ValueError:
                raise _not_label_studio(path) from None
        hint = ": LABEL_STUDIO_API_KEY may not do this" if response.status_code in (401, 403) else ""
        raise LabelStudioUnavailable(
            f"Label Studio answered HTTP {response.status_code} to {method} {path}{hint}. "
            f"{response.text[:MAX_ERROR_CHARS]}",
            response.status_code,
        )


def _are_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _not_label_studio(path: str) -> LabelStudioUnavailable:
    return LabelStudioUnavailable(
        f"LABEL_STUDIO_URL does not lead to Label Studio: what it answers to {path} is of another form."
    )
