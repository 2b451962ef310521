"""Answers that come after the batch request that asked for them: followed here, then sent to Label Studio.

What is followed lives in this process. After a restart the same question finds its stored answer.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from backend.label_studio.client import LabelStudioApi, LabelStudioUnavailable
from backend.prompts.model_client import Asking, Failed, Unanswered
from backend.settings import BackendSettings
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.jobs.queue import WAITING_TTL_S, QueueUnavailable

log = logging.getLogger(__name__)

WAIT_S = 600.0
REST_S = 5.0
RETRY_AFTER_S = (1.0, 2.0, 5.0, 10.0, 60.0)

Prediction = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Pending:
    """A question of a batch without an answer yet; `finish` makes the prediction of a result."""

    task: int
    job: SegmentJob
    finish: Callable[[SegmentResult], Awaitable[Prediction]]

    @property
    def key(self) -> tuple[int, str, str]:
        return self.task, self.job.image, self.job.prompt


class LatePredictions:
    """Follows pending questions in the background of the running event loop."""

    def __init__(self, settings: BackendSettings, asking: Asking) -> None:
        self._settings = settings
        self._asking = asking
        self._followed: set[tuple[int, str, str]] = set()
        self._sending: set[tuple[int, str, str]] = set()
        self._runs: set[asyncio.Task[None]] = set()

    def follow(self, pending: Sequence[Pending]) -> None:
        """Sends each answer to Label Studio once it is there; a question is followed once."""
        fresh = [one for one in pending if one.key not in self._followed]
        if not fresh:
            return
        if not (self._settings.label_studio_url and self._settings.label_studio_api_key):
            log.info(
                "%d predictions come later and stay here: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY are not "
                "both set",
                len(fresh),
            )
            return
        self._followed.update(one.key for one in fresh)
        run = asyncio.create_task(self._run(fresh))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    def settle(self, pending: Pending) -> bool:
        """Whether the answer may go into a response, and then it is not sent once more. While it is being
        sent it may not: Label Studio asks twice for an opened task and would store it twice."""
        self._followed.discard(pending.key)
        return pending.key not in self._sending

    async def aclose(self) -> None:
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _run(self, pending: Sequence[Pending]) -> None:
        give_up = time.monotonic() + WAITING_TTL_S
        try:
            # All at once, so that all workers have something to do while the first answer is awaited.
            await self._patiently(lambda: self._asking.submit([one.job for one in pending], WAIT_S), give_up)
            for one in pending:
                await self._follow(one, give_up)
        except (Unanswered, QueueUnavailable) as error:
            log.warning("%d tasks get no prediction: %s", len(pending), error)
        finally:
            self._followed.difference_update(one.key for one in pending)

    async def _follow(self, one: Pending, give_up: float) -> None:
        try:
            result = await self._patiently(functools.partial(self._asking.ask, one.job, WAIT_S), give_up)
            if one.key in self._followed:
                self._sending.add(one.key)
                await self._send(one.task, await one.finish(result))
        except Failed as error:
            log.warning("task %d gets no prediction: %s", one.task, error)
        finally:
            self._followed.discard(one.key)
            self._sending.discard(one.key)

    async def _patiently(self, ask: Callable[[], Awaitable[T]], give_up: float) -> T:
        while True:
            try:
                return await ask()
            except Failed:
                raise
            except (Unanswered, QueueUnavailable):
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(REST_S)

    async def _send(self, task: int, prediction: Prediction) -> None:
        for retry_after_s in (*RETRY_AFTER_S, None):
            try:
                await asyncio.to_thread(self._label_studio.predict, task, prediction)
            except LabelStudioUnavailable as error:
                refused = error.status is not None and error.status < 500
                reason = f"HTTP status {error.status}" if error.status else str(error)
                if retry_after_s is None or refused:
                    log.error("Label Studio does not take the prediction for task %d: %s", task, reason)
                    return
                log.warning("Label Studio does not take a prediction yet: %s", reason)
                await asyncio.sleep(retry_after_s)
            else:
                log.info("task %d: prediction sent", task)
                return

    @functools.cached_property
    def _label_studio(self) -> LabelStudioApi:
        return LabelStudioApi(self._settings)
