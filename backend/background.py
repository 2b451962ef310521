"""Tasks that run in the background of the running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class BackgroundTasks:
    """Starts coroutines without awaiting them, and ends them at shutdown.

    The event loop only keeps weak references to its tasks, so they are held here until they are done.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` in the background; it has to handle its own errors."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self, *, cancel: bool) -> None:
        """Wait until all tasks have ended.

        Args:
            cancel: Whether to cancel them first.
        """
        if cancel:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
