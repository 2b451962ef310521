"""Makes Label Studio show the scores of our predictions, and order tasks by them.

The Data Manager's score column, its order and its filters only know predictions of the version that the
project names (`model_version`). When a backend is connected, Label Studio sets that to the backend's title,
which no prediction has.
"""

from __future__ import annotations

import asyncio
import functools
import logging

from backend.background import BackgroundTasks
from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.settings import BackendSettings
from worker.store.registry import split_name

log = logging.getLogger(__name__)

# Label Studio takes only a version that a stored prediction has, and it stores them after our response.
PAUSES_S = (2.0, 5.0, 15.0, 60.0)


class ShownVersion:
    """Names the version of our predictions in Label Studio's projects; belongs to one event loop."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._has_label_studio = bool(settings.label_studio_url and settings.label_studio_api_key)
        self._handled: set[tuple[str, str]] = set()
        self._tasks = BackgroundTasks()

    def update(self, project: str, version: str) -> None:
        """Have a project show the predictions of `version`; returns at once.

        Done once for each project and version. A version that somebody chose by hand is left alone, and
        without LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY nothing is done.

        Args:
            project: The project's number.
            version: The version of predictions that the project has or is about to get.
        """
        if self._has_label_studio and (project, version) not in self._handled:
            self._handled.add((project, version))
            self._tasks.start(self._update(project, version))

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self._tasks.aclose(cancel=True)

    async def _update(self, project: str, version: str) -> None:
        for pause_s in PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                await asyncio.to_thread(self.show, project, version)
            except LabelStudioUnavailable as error:
                reason = error
            else:
                return
        self._handled.discard((project, version))
        log.warning("project %s does not show the scores of %s: %s", project, version, reason)

    def show(self, project: str, version: str) -> None:
        """Have a project show the predictions of `version` unless somebody chose another one by hand.

        Args:
            project: The project's number.
            version: The version; the project must have a prediction of it.

        Raises:
            LabelStudioUnavailable: Label Studio does not answer or refuses.
        """
        current = str(self._label_studio.project(project).get("model_version") or "")
        if current == version:
            return
        is_ours = split_name(current)[0] == split_name(version)[0] if current else True
        if is_ours or current in self._label_studio.backend_titles(project):
            self._label_studio.set_version(project, version)
            log.info("project %s shows the predictions of %s", project, version)

    @functools.cached_property
    def _label_studio(self) -> LabelStudioClient:
        return LabelStudioClient(self._settings)
