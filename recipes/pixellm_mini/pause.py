"""A clock for trainings that make way: while a file is there, they sleep and time stands still."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Clock:
    """Seconds of training, those of earlier runs included and pauses left out.

    The file that pauses is named by the environment variable MINI_PAUSE.
    """

    def __init__(self, spent: float = 0.0):
        self._began = time.monotonic() - spent
        named = os.environ.get("MINI_PAUSE")
        self._file = Path(named) if named else None

    def spent(self) -> float:
        """The seconds until now; returns when the file is gone."""
        while self._file is not None and self._file.exists():
            before = time.monotonic()
            time.sleep(1)
            self._began += time.monotonic() - before
        return time.monotonic() - self._began
