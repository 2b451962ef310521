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
        self._done_before: int | None = None  # what was done when somebody began to watch
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
        self._print_line(self._done, self._total)

    def at(self, done: int, total: int) -> None:
        """Show how far somebody else's work is; rate and time left count from the first call."""
        if self._done_before is None:
            self._done_before = done
            self._bar.initial = self._bar.n = done
        self._done, self._total = done - self._done_before, total - self._done_before
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        self._print_line(done, total)

    def note(self, text: str) -> None:
        """Show a message above the bar."""
        if self._is_terminal:
            tqdm.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _print_line(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._is_terminal or now - self._line_at < LINE_EVERY_S:
            return
        self._line_at = now
        rate = self._done / (now - self._started_at)
        left = (
            f"{tqdm.format_interval(max(0, self._total - self._done) / rate)} left" if rate > 0 else "waiting"
        )
        speed = f"{rate:.1f} tasks/s" if rate >= 1 else f"{60 * rate:.1f} tasks/min"
        print(f"{done} of {total} tasks, {speed}, {left}", file=self._stream, flush=True)
