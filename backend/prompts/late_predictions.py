"""Predictions that are ready only after the batch request that asked for them: sent to Label Studio later.

What is owed is kept in Redis (`PendingStore`) from before it is queued until it is delivered. A process that
starts takes over what another one left behind.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from backend.background import BackgroundTasks
from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.prompts.model_client import JobFailed, ModelClient, NotReady
from backend.prompts.pending_store import PendingPrediction, PendingStore
from backend.prompts.regions import Prediction
from backend.settings import BackendSettings
from label_config import LabelConfig
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.jobs.queue import QueueUnavailable, connect

log = logging.getLogger(__name__)

WAIT_S = 600.0
RETRY_PAUSE_S = 5.0
SEND_RETRY_PAUSES_S = (1.0, 2.0, 5.0, 10.0, 60.0)  # the last one is repeated
RENEW_EVERY_S = 4.0  # leases end after three missed renewals

T = TypeVar("T")
# Makes the prediction that shows a result.
Build = Callable[[SegmentJob, SegmentResult, LabelConfig], Awaitable[Prediction]]


class LatePredictions:
    """Follows pending predictions in the background of the running event loop.

    Without LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY nothing is kept or followed.
    """

    def __init__(self, settings: BackendSettings, model: ModelClient, build: Build) -> None:
        self._settings = settings
        self._model = model
        self._build = build
        self._store = PendingStore(connect(settings.redis_url))
        self._can_send = bool(settings.label_studio_url and settings.label_studio_api_key)
        self._kept: dict[str, PendingPrediction] = {}  # what this process holds the leases of
        self._followed: set[str] = set()
        self._sending: set[str] = set()
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        """Take over what earlier processes left, now and whenever one dies."""
        if self._can_send:
            self._tasks.start(self._hold_leases())

    async def keep(self, predictions: Sequence[PendingPrediction]) -> None:
        """Remember what is owed before it is asked for.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        if self._can_send:
            await asyncio.to_thread(self._store.keep, predictions)
            self._kept |= {pending.id: pending for pending in predictions}

    async def forget(self, predictions: Iterable[PendingPrediction]) -> None:
        """Forget what is in a response, or will never be; those being sent are left alone."""
        ids = [pending.id for pending in predictions if pending.id in self._kept]
        await self._remove([name for name in ids if name not in self._sending])

    async def give_up(self, predictions: Iterable[PendingPrediction]) -> None:
        """Leave predictions of a request that failed to the next process that looks, this one included."""
        ids = [pending.id for pending in predictions if pending.id not in self._followed]
        for name in ids:
            self._kept.pop(name, None)
        if self._can_send:
            try:
                await asyncio.to_thread(self._store.release, ids)
            except QueueUnavailable as error:
                log.warning("%s", error)

    def follow(self, predictions: Sequence[PendingPrediction], *, taken_over: bool = False) -> None:
        """Send each prediction to Label Studio when it is ready; what is followed already is skipped.

        Args:
            predictions: What is owed.
            taken_over: Whether another process may have sent some of them already.
        """
        new = [pending for pending in predictions if pending.id not in self._followed]
        if not new:
            return
        if not self._can_send:
            log.info(
                "%d predictions are not sent to Label Studio: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY are "
                "not both set",
                len(new),
            )
            return
        self._followed.update(pending.id for pending in new)
        self._tasks.start(self._follow_all(new, taken_over))

    def claim(self, pending: PendingPrediction) -> bool:
        """Ask to put a prediction into a response instead of sending it later.

        Returns:
            Whether the caller may do so; then it is not sent. It may not while it is being sent: Label Studio
            asks twice for a task that is opened, and would store the prediction twice.
        """
        self._followed.discard(pending.id)
        return pending.id not in self._sending

    async def aclose(self) -> None:
        """Cancel the background tasks; what is owed is left to the next process."""
        await self._tasks.aclose(cancel=True)
        self._followed.clear()
        await self.give_up(list(self._kept.values()))
        self._store.close()

    async def _hold_leases(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._store.renew, list(self._kept))
                left_behind = await asyncio.to_thread(self._store.take_over)
            except QueueUnavailable as error:
                log.debug("%s", error)
            else:
                if left_behind:
                    log.info("%d predictions that another process left are followed", len(left_behind))
                self._kept |= {pending.id: pending for pending in left_behind}
                self.follow(left_behind, taken_over=True)
            await asyncio.sleep(RENEW_EVERY_S)

    async def _follow_all(self, predictions: Sequence[PendingPrediction], taken_over: bool) -> None:
        until = max(pending.until for pending in predictions)
        jobs = [pending.job for pending in predictions]
        try:
            # All at once, so that all workers are busy while the first result is awaited.
            await self._retry(functools.partial(self._model.submit, jobs, WAIT_S), until)
            for pending in predictions:
                await self._follow(pending, taken_over)
        except (NotReady, QueueUnavailable) as error:
            log.warning("%d tasks get no prediction: %s", len(predictions), error)
            await self._remove([pending.id for pending in predictions])
        finally:
            self._followed.difference_update(pending.id for pending in predictions)

    async def _follow(self, pending: PendingPrediction, taken_over: bool) -> None:
        try:
            result = await self._retry(functools.partial(self._model.ask, pending.job, WAIT_S), pending.until)
            if pending.id in self._followed:
                self._sending.add(pending.id)
                prediction = await self._build(pending.job, result, pending.config)
                await self._send(pending, prediction, taken_over)
                await self._remove([pending.id])
        except JobFailed as error:
            log.warning("task %d gets no prediction: %s", pending.task, error)
            await self._remove([pending.id])
        finally:
            self._followed.discard(pending.id)
            self._sending.discard(pending.id)

    async def _remove(self, ids: Sequence[str]) -> None:
        for name in ids:
            self._kept.pop(name, None)
        if not self._can_send:
            return
        try:
            await asyncio.to_thread(self._store.remove, ids)
        except QueueUnavailable as error:
            # Its lease ends, and whoever takes it over finds it delivered.
            log.warning("%s", error)

    async def _retry(self, request: Callable[[], Awaitable[T]], until: float) -> T:
        while True:
            try:
                return await request()
            except JobFailed:
                raise
            except (NotReady, QueueUnavailable):
                if time.time() > until:
                    raise
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _send(self, pending: PendingPrediction, prediction: Prediction, taken_over: bool) -> None:
        """Store a prediction; while Label Studio is away it is tried again until its time is over."""
        pauses = itertools.chain(SEND_RETRY_PAUSES_S, itertools.repeat(SEND_RETRY_PAUSES_S[-1]))
        for pause_s in pauses:
            try:
                if taken_over and await asyncio.to_thread(self._is_there, pending.task, prediction):
                    log.info("task %d: the prediction is there already", pending.task)
                    return
                await asyncio.to_thread(self._label_studio.predict, pending.task, prediction)
            except LabelStudioUnavailable as error:
                refused = error.status is not None and error.status < 500
                reason = f"HTTP status {error.status}" if error.status else str(error)
                if refused or time.time() > pending.until:
                    log.error(
                        "Label Studio does not take the prediction for task %d: %s", pending.task, reason
                    )
                    return
                log.warning("Label Studio does not take a prediction yet: %s", reason)
                taken_over = True  # it may have been stored although its response was lost
                await asyncio.sleep(pause_s)
            else:
                log.info("task %d: prediction sent", pending.task)
                return

    def _is_there(self, task: int, prediction: Prediction) -> bool:
        version = prediction["model_version"]
        return any(stored.get("model_version") == version for stored in self._label_studio.predictions(task))

    @functools.cached_property
    def _label_studio(self) -> LabelStudioClient:
        return LabelStudioClient(self._settings)
