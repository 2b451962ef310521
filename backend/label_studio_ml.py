"""PixelLM for hosts that serve their ML backends with `label-studio-ml` (1.0.9 from PyPI, or 2.x).

That package handles each request synchronously in a thread; all of them share one event loop in the
background.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
from dataclasses import dataclass
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.corrections.webhook_inbox import STORED_ACTIONS, WebhookInbox, spool_folder
from backend.prompts.predictor import Predictor
from backend.prompts.request import PredictRequest
from backend.settings import BackendSettings
from worker.jobs.queue import SegmentQueue, connect
from worker.store import Database


@dataclass(frozen=True)
class _Service:
    """A predictor, and the running event loop that it belongs to."""

    predictor: Predictor
    loop: asyncio.AbstractEventLoop

    @classmethod
    def from_environment(cls) -> _Service:
        settings = BackendSettings.model_validate({})
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="pixellm", daemon=True).start()
        database = Database(settings)
        database.migrate()
        return cls(Predictor(settings, SegmentQueue(settings), database), loop)


@functools.cache
def _get_service() -> _Service:
    """Return this process's service, made by the first request: a server may fork after the import."""
    return _Service.from_environment()


@functools.cache
def _get_inbox(process: int) -> WebhookInbox:
    """Return the inbox of a process: 1.0.9 forks one for each event, and connections do not survive that."""
    settings = BackendSettings.model_validate({})
    database = Database(settings)
    database.migrate()
    return WebhookInbox(database, connect(settings.redis_url), spool_folder(settings))


class PixelLM(LabelStudioMLBase):
    """The model class for `label_studio_ml.api.init_app`; it is configured as `python -m backend`."""

    TRAIN_EVENTS = tuple(sorted(STORED_ACTIONS))

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any) -> list[Any]:
        """Answer a request.

        Args:
            tasks: Label Studio's tasks.
            context: The editor's context; None for a batch.
            **kwargs: Ignored.

        Returns:
            One prediction for each task; an empty list where there is none yet.
        """
        service = _get_service()
        project = next((task["project"] for task in tasks if task.get("project") is not None), None)
        request = PredictRequest.model_validate(
            {
                "tasks": tasks,
                "project": None if project is None else str(project),
                "label_config": self.label_config,
                "params": {"context": context or None},
            }
        )
        return asyncio.run_coroutine_threadsafe(service.predictor.predict(request), service.loop).result()

    def fit(self, *arguments: Any, **fields: Any) -> dict[str, Any]:
        """Store an event; `python -m backend collect` processes it, and `python -m worker learn` trains.

        Args:
            *arguments: In 2.x the event's name and its data.
            **fields: In 1.0.9 both, as `event` and `data`; others are ignored.

        Returns:
            Nothing for label-studio-ml to keep.

        Raises:
            OSError: Neither the database nor the spool folder can be written.
        """
        event, data = arguments[:2] if len(arguments) > 1 else (fields["event"], fields["data"])
        project = data.get("project")
        number = project.get("id") if isinstance(project, dict) else project
        body = json.dumps({"action": event} | data).encode()
        _get_inbox(os.getpid()).store(event, None if number is None else str(number), body)
        return {}
