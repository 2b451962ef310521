"""PixelLM for those who host their backends with `label-studio-ml` (1.0.9 from PyPI, or 2.x).

Its requests are synchronous and each has a thread, so that one event loop in the background serves them all.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.prompts.predictor import Predictor, PredictRequest
from backend.settings import BackendSettings
from worker.jobs.queue import SegmentQueue
from worker.store import Database


@functools.cache
def _service() -> tuple[Predictor, asyncio.AbstractEventLoop]:
    """Made at the first request, since a server may fork after the import."""
    settings = BackendSettings.model_validate({})
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="pixellm", daemon=True).start()
    database = Database(settings)
    database.migrate()
    return Predictor(settings, SegmentQueue(settings), database), loop


class PixelLM(LabelStudioMLBase):
    """`label_studio_ml.api.init_app(PixelLM)`; its settings are those of `python -m backend`."""

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any) -> list[Any]:
        """One prediction per task; an empty list stands for one that is not there yet."""
        predictor, loop = _service()
        request = PredictRequest.model_validate(
            {"tasks": tasks, "label_config": self.label_config, "params": {"context": context or None}}
        )
        return asyncio.run_coroutine_threadsafe(predictor.predict(request), loop).result()
