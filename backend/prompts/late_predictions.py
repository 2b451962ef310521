"""Predictions that are ready only after the batch request that asked for them: sent to Label Studio later.

The jobs that are followed are held by this process only. After a restart, asking again finds their results.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from backend.background import BackgroundTasks
from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.prompts.model_client import JobFailed, ModelClient, NotReady
from backend.prompts.regions import Prediction
from backend.settings import BackendSettings
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.jobs.queue import WAITING_TTL_S, QueueUnavailable

log = logging.getLogger(__name__)

WAIT_S = 600.0
RETRY_PAUSE_S = 5.0
SEND_RETRY_PAUSES_S = (1.0, 2.0, 5.0, 10.0, 60.0)

T = TypeVar("T")


@dataclass(frozen=True)
class PendingPrediction:
    """A task of a batch whose job has no result yet.

    Attributes:
        task: Label Studio's id of the task.
        job: The job that was made for it.
        build: Makes the prediction when the result is there.
    """

    task: int
    job: SegmentJob
    build: Callable[[SegmentResult], Awaitable[Prediction]]

    @property
    def key(self) -> tuple[int, str, str]:
        """What identifies the question: the task, its image and the prompt."""
        return self.task, self.job.image, self.job.prompt


class LatePredictions:
    """Follows pending predictions in the background of the running event loop."""

    def __init__(self, settings: BackendSettings, model: ModelClient) -> None:
        self._settings = settings
        self._model = model
        self._followed: set[tuple[int, str, str]] = set()
        self._sending: set[tuple[int, str, str]] = set()
        self._tasks = BackgroundTasks()

    def follow(self, predictions: Sequence[PendingPrediction]) -> None:
        """Send each prediction to Label Studio when it is ready; what is followed already is skipped.

        Without LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY nothing is followed.
        """
        new = [pending for pending in predictions if pending.key not in self._followed]
        if not new:
            return
        if not (self._settings.label_studio_url and self._settings.label_studio_api_key):
            log.info(
                "%d predictions are not sent to Label Studio: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY are "
                "not both set",
                len(new),
            )
            return
        self._followed.update(pending.key for pending in new)
        self._tasks.start(self._follow_all(new))

    def claim(self, pending: PendingPrediction) -> bool:
        """Ask to put a prediction into a response instead of sending it later.

        Returns:
            Whether the caller may do so; then it is not sent. It may not while it is being sent: Label Studio
            asks twice for a task that is opened, and would store the prediction twice.
        """
        self._followed.discard(pending.key)
        return pending.key not in self._sending

    async def aclose(self) -> None:
        """Cancel the background tasks."""
        await self._tasks.aclose(cancel=True)

    async def _follow_all(self, predictions: Sequence[PendingPrediction]) -> None:
        deadline = time.monotonic() + WAITING_TTL_S
        jobs = [pending.job for pending in predictions]
        try:
            # All at once, so that all workers are busy while the first result is awaited.
            await self._retry(functools.partial(self._model.submit, jobs, WAIT_S), deadline)
            for pending in predictions:
                await self._follow(pending, deadline)
        except (NotReady, QueueUnavailable) as error:
            log.warning("%d tasks get no prediction: %s", len(predictions), error)
        finally:
            self._followed.difference_update(pending.key for pending in predictions)

    async def _follow(self, pending: PendingPrediction, deadline: float) -> None:
        try:
            result = await self._retry(functools.partial(self._model.ask, pending.job, WAIT_S), deadline)
            if pending.key in self._followed:
                self._sending.add(pending.key)
                await self._send(pending.task, await pending.build(result))
        except JobFailed as error:
            log.warning("task %d gets no prediction: %s", pending.task, error)
        finally:
            self._followed.discard(pending.key)
            self._sending.discard(pending.key)

    async def _retry(self, request: Callable[[], Awaitable[T]], deadline: float) -> T:
        while True:
            try:
                return await request()
            except JobFailed:
                raise
            except (NotReady, QueueUnavailable):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _send(self, task: int, prediction: Prediction) -> None:
        for pause_s in (*SEND_RETRY_PAUSES_S, None):
            try:
                await asyncio.to_thread(self._label_studio.predict, task, prediction)
            except LabelStudioUnavailable as error:
                refused = error.status is not None and error.status < 500
                reason = f"HTTP status {error.status}" if error.status else str(error)
                if pause_s is None or refused:
                    log.error("Label Studio does not take the prediction for task %d: %s", task, reason)
                    return
                log.warning("Label Studio does not take a prediction yet: %s", reason)
                await asyncio.sleep(pause_s)
            else:
                log.info("task %d: prediction sent", task)
                return

    @functools.cached_property
    def _label_studio(self) -> LabelStudioClient:
        return LabelStudioClient(self._settings)
