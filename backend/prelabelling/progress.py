"""Shows how far a run is: a progress bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

LINE_EVERY_S = 10.0


class Progress:
    """Counts tasks on standard error; a context manager.

    Rate and time left count asked tasks only: those that are skipped take no time.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        """Set up.

        Args:
            total: How many tasks there are.
            stream: Where to show it; None: standard error.
        """
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._bar = tqdm(
            total=total, unit="task", file=self._stream, disable=not self._is_terminal, dynamic_ncols=True
        )
        self._total = total
        self._done = 0
        self._started_at = self._line_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is; more may be printed below it."""
        self._bar.close()

    def skip(self) -> None:
        """Count a task that is not asked about."""
        self._total = max(self._done, self._total - 1)
        self._bar.total = self._total
        self._bar.update(0)

    def step(self) -> None:
        """Count a task that is done or has failed."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if not self._is_terminal and now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            print(self._line(now - self._started_at), file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Show a message above the bar."""
        if self._is_terminal:
            tqdm.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _line(self, elapsed_s: float) -> str:
        rate = self._done / elapsed_s
        left_s = max(0, self._total - self._done) / rate
        return f"{self._done} of {self._total} tasks, {rate:.1f} tasks/s, {tqdm.format_interval(left_s)} left"
