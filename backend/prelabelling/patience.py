"""Waits for a Label Studio that is away, and says so once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from backend.label_studio.client import LabelStudioUnavailable

T = TypeVar("T")

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # the last one is repeated
GIVE_UP_AFTER_S = 3600.0
MAX_REQUESTS = 4  # at once; annotators use the same server


class Patience:
    """Repeats requests while Label Studio is away; belongs to one event loop."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """Set up.

        Args:
            note: Shows a message to the user.
        """
        self._note = note
        self._away_since: float | None = None
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    async def call(self, request: Callable[[], T]) -> T:
        """Run `request` in a thread until it succeeds.

        Raises:
            LabelStudioUnavailable: Label Studio refuses the request, or was away for GIVE_UP_AFTER_S.
        """
        attempts = 0
        while True:
            try:
                async with self._slots:
                    result = await asyncio.to_thread(request)
            except LabelStudioUnavailable as error:
                await self.wait(error, attempts)
                attempts += 1
            else:
                self.is_back()
                return result

    async def wait(self, error: LabelStudioUnavailable, attempts: int) -> None:
        """Pause before a request is repeated.

        Args:
            error: Why it failed.
            attempts: How often it had failed before.

        Raises:
            LabelStudioUnavailable: `error`, if repeating does not help or it has lasted too long.
        """
        if not is_away(error):
            raise error
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._note(f"{str(error).rstrip()} Waiting for it.")
        elif time.monotonic() - self._away_since > GIVE_UP_AFTER_S:
            raise error
        await asyncio.sleep(PAUSES_S[min(attempts, len(PAUSES_S) - 1)])

    def is_back(self) -> None:
        """Say that Label Studio answers again, if it did not before."""
        if self._away_since is not None:
            self._away_since = None
            self._note("Label Studio answers again.")


def is_away(error: LabelStudioUnavailable) -> bool:
    """Whether the same request may succeed later."""
    return error.status is None or error.status >= 500 or error.status == httpx.codes.TOO_MANY_REQUESTS
