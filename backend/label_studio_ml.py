"""PixelLM for hosts that serve their ML backends with `label-studio-ml` (1.0.9 from PyPI, or 2.x).

That package handles each request synchronously in a thread; all of them share one event loop in the
background.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from dataclasses import dataclass
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.prompts.predictor import Predictor
from backend.prompts.request import PredictRequest
from backend.settings import BackendSettings
from worker.jobs.queue import SegmentQueue
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


class PixelLM(LabelStudioMLBase):
    """The model class for `label_studio_ml.api.init_app`; it is configured as `python -m backend`."""

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
        request = PredictRequest.model_validate(
            {"tasks": tasks, "label_config": self.label_config, "params": {"context": context or None}}
        )
        return asyncio.run_coroutine_threadsafe(service.predictor.predict(request), service.loop).result()
