"""Seconds per stage of an answer."""

from __future__ import annotations

import time


class Stopwatch:
    """Measures stages one after the other.

    Attributes:
        laps: seconds by stage.
    """

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Record the seconds since the last lap."""
        now = time.perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
