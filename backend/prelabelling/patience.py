"""Waits for a Label Studio that is away, and says so once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx

from backend.label_studio.client import LabelStudioUnavailable

T = TypeVar("T")

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # the last one is repeated
GIVE_UP_AFTER_S = 3600.0
MAX_ERRORS = 6  # HTTP 500 in a row: an error in Label Studio that the same request meets again
MAX_REQUESTS = 4  # at once; annotators use the same server


@dataclass
class Failures:
    """The failures of one request in a row.

    Attributes:
        count: How many there were.
        since: When the first one was (`time.monotonic`).
    """

    count: int = 0
    since: float = 0.0


class Patience:
    """Repeats requests while Label Studio is away; belongs to one event loop."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """Set up.

        Args:
            note: Shows a message to the user.
        """
        self._note = note
        self._is_away = False
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    async def call(self, request: Callable[[], T]) -> T:
        """Run `request` in a thread until it succeeds.

        Raises:
            LabelStudioUnavailable: As `wait`.
        """
        failures = Failures()
        while True:
            try:
                async with self._slots:
                    result = await asyncio.to_thread(request)
            except LabelStudioUnavailable as error:
                await self.wait(error, failures)
            else:
                self.is_back()
                return result

    async def wait(self, error: LabelStudioUnavailable, failures: Failures) -> None:
        """Pause before a request is repeated.

        Args:
            error: Why it failed.
            failures: Those before; this one is added.

        Raises:
            LabelStudioUnavailable: `error`, if Label Studio refuses the request, fails at it again and again,
                or was away for GIVE_UP_AFTER_S.
        """
        failures.count += 1
        failures.since = failures.since or time.monotonic()
        fails_at_this = error.status == httpx.codes.INTERNAL_SERVER_ERROR and failures.count >= MAX_ERRORS
        if not is_away(error) or fails_at_this or time.monotonic() - failures.since > GIVE_UP_AFTER_S:
            raise error
        if not self._is_away:
            self._is_away = True
            self._note(f"{str(error).rstrip()} Waiting for it.")
        await asyncio.sleep(PAUSES_S[min(failures.count, len(PAUSES_S)) - 1])

    def is_back(self) -> None:
        """Say that Label Studio answers again, if it did not before."""
        if self._is_away:
            self._is_away = False
            self._note("Label Studio answers again.")


def is_away(error: LabelStudioUnavailable) -> bool:
    """Whether the same request may succeed later."""
    return error.status is None or error.status >= 500 or error.status == httpx.codes.TOO_MANY_REQUESTS
