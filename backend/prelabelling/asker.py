"""Asks the model about tasks at batch priority, a limited number of prompts at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from backend.prelabelling.questions import Questions
from backend.prompts.model_client import LOADING, NO_WORKER, JobFailed, ModelClient, NotReady
from backend.prompts.request import Task
from backend.prompts.shapes import without_speckles
from backend.prompts.tasks import segment_job
from label_config import LabelConfig
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.jobs.queue import QueueUnavailable
from worker.store.registry import Registry

# Enough to keep several GPUs busy; the queue stays short, and a stopped run leaves little behind.
MAX_OUTSTANDING = 64
WAIT_S = 30.0  # for one look at a job, and for a worker that loads before a message is shown
RETRY_PAUSE_S = 5.0

# The answers about one task: each question's job and its result, in order.
Answers = list[tuple[SegmentJob, SegmentResult]]


class Asker:
    """Asks questions about tasks of one project; belongs to one event loop."""

    def __init__(
        self,
        model: ModelClient,
        registry: Registry,
        project: str,
        config: LabelConfig,
        note: Callable[[str], None],
        min_region_share: float = 0.0,
    ) -> None:
        """Set up.

        Args:
            model: The queue's client.
            registry: Knows the version that serves the project.
            project: The project's number.
            config: Its labeling configuration.
            note: Shows a message to the user.
            min_region_share: Smaller speckles and pinholes of masks are removed.
        """
        self._model = model
        self._registry = registry
        self._project = project
        self._config = config
        self._note = note
        self._min_region_share = min_region_share
        self._slots = asyncio.Semaphore(MAX_OUTSTANDING)
        self._last_note = ""

    async def version(self) -> str:
        """Return the version that serves the project; waits for a worker."""
        while True:
            try:
                base = await self._model.base_version(WAIT_S)
            except (NotReady, QueueUnavailable) as error:
                await self._wait(error)
            else:
                self._found()
                return self._registry.serving(self._project, base)

    async def ask(self, task: Task, questions: Questions) -> Answers:
        """Ask all questions about a task; waits while there is no worker or no queue.

        Returns:
            The answers, all by the same version.

        Raises:
            BadTask: The task has no image, or a prompt cannot be sent.
            JobFailed: The model gave no answer to a question; the message says why.
        """
        jobs = [segment_job(task, prompt, self._config, self._project, "batch") for prompt in questions]
        while True:
            results: list[Any] = await asyncio.gather(*map(self._answer, jobs), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            if len({result.model_version for result in results}) == 1:
                return list(zip(jobs, results, strict=True))
            # A version was promoted meanwhile; what the new one has answered is not computed again.

    async def _answer(self, job: SegmentJob) -> SegmentResult:
        while True:
            try:
                async with self._slots:
                    result = await self._model.ask(job, WAIT_S)
            except JobFailed:
                raise
            except (NotReady, QueueUnavailable) as error:
                await self._wait(error)
            else:
                self._found()
                return await asyncio.to_thread(without_speckles, result, self._min_region_share)

    async def _wait(self, error: Exception) -> None:
        """Pause before asking again; says why unless the job merely waits for its turn."""
        if isinstance(error, QueueUnavailable) or str(error) in (NO_WORKER, LOADING):
            text = "The model is still loading." if str(error) == LOADING else str(error)
            if text != self._last_note:
                self._last_note = text
                self._note(f"{text} Waiting for it.")
            await asyncio.sleep(RETRY_PAUSE_S)

    def _found(self) -> None:
        if self._last_note:
            self._last_note = ""
            self._note("The model answers.")
