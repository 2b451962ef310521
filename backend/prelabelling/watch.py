"""Watches how far a project's predictions are, whoever asked for them; changes nothing."""

from __future__ import annotations

import asyncio
import time

from backend.label_studio.client import LabelStudioClient
from backend.prelabelling import predictions
from backend.prelabelling.asker import Asker
from backend.prelabelling.pages import all_tasks, is_labelled
from backend.prelabelling.patience import Patience
from backend.prelabelling.progress import Progress
from backend.prelabelling.run import Selection
from worker.jobs.queue import QueueUnavailable, SegmentQueue

POLL_S = 2.0
POLL_SHARE = 0.2  # of the time may go into reading tasks
# Label Studio asks for one batch after the other; between two of them nothing waits in the queue.
IDLE_S = 60.0


class Watch:
    """Counts the tasks that have a prediction by the version that serves the project."""

    def __init__(
        self,
        label_studio: LabelStudioClient,
        project: str,
        asker: Asker,
        queue: SegmentQueue,
        selection: Selection,
        patience: Patience,
        progress: Progress,
    ) -> None:
        """Set up.

        Args:
            label_studio: The client.
            project: The project's number.
            asker: Knows the version.
            queue: Where prompts wait.
            selection: Which tasks count: its `view` and `only_unlabelled`.
            patience: Waits while Label Studio is away.
            progress: Shows the counts.
        """
        self._label_studio = label_studio
        self._project = project
        self._asker = asker
        self._queue = queue
        self._selection = selection
        self._patience = patience
        self._progress = progress

    async def run(self) -> tuple[int, int, str]:
        """Watch until all tasks have a prediction, or nothing has happened for IDLE_S.

        Returns:
            How many tasks have one, how many there are, and the version.

        Raises:
            LabelStudioUnavailable: Label Studio refuses, or is away for too long.
        """
        changed_at, before = time.monotonic(), -1
        while True:
            began = time.monotonic()
            version = await self._asker.version()
            done, total = await self._count(version)
            self._progress.at(done, total)
            now = time.monotonic()
            if done != before or await self._is_busy():
                changed_at, before = now, done
            if done >= total or now - changed_at > IDLE_S:
                return done, total, version
            await asyncio.sleep(max(POLL_S, (now - began) / POLL_SHARE))

    async def _count(self, version: str) -> tuple[int, int]:
        """Return how many tasks have a prediction by a version, and how many there are."""
        view, label_studio = self._selection.view, self._label_studio
        if view is None and not self._selection.only_unlabelled:
            total = await self._patience.call(lambda: label_studio.count_tasks(self._project))
            counts = await self._patience.call(lambda: label_studio.version_counts(self._project))
            return min(counts.get(version, 0), total), total
        done = total = 0
        async for row in all_tasks(label_studio, self._project, self._patience, details=True, view=view):
            if not (self._selection.only_unlabelled and is_labelled(row)):
                total += 1
                done += predictions.of_version(row.get("predictions") or [], version) is not None
        return done, total

    async def _is_busy(self) -> bool:
        """Whether prompts of batches wait or run."""
        try:
            depth = await asyncio.to_thread(self._queue.depth)
        except QueueUnavailable:
            return True
        return depth.batch + depth.running - depth.running_interactive > 0
