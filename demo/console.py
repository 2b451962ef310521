"""Progress in the terminal: one line per step, with the elapsed seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A log file or a CI console gets a line per interval instead of a line that is rewritten.
QUIET_INTERVAL_S = 15.0


class DemoError(Exception):
    """A step failed. The message is one line that says what to do; `log` has the details."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(f"{message} Log: {log}" if log else message)


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show `title` and the elapsed seconds during the block; yields a function that sets the final text."""
    closing = title

    def close_with(words: str) -> None:
        nonlocal closing
        closing = words

    started, done, rewrites = time.monotonic(), threading.Event(), sys.stdout.isatty()

    def tick() -> None:
        while not done.wait(1.0 if rewrites else QUIET_INTERVAL_S):
            _show(f"  … {title}", time.monotonic() - started, rewrites)

    _show(f"  … {title}", 0.0, rewrites)
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    mark = "✗"
    try:
        yield close_with
        mark = "✓"
    finally:
        done.set()
        ticker.join()
        _show(f"  {mark} {closing}", time.monotonic() - started, rewrites, end="\n")


def _show(text: str, seconds: float, rewrites: bool, end: str = "") -> None:
    line = f"{text:<68} {seconds:4.0f} s"
    # A terminal that was closed must not keep the steps that stop everything from being taken.
    with suppress(OSError):
        if rewrites:
            # Cleared first: a shorter line must not leave the end of the longer one behind.
            print(f"\r\033[K{line}", end=end, flush=True)
        else:
            print(line, flush=True)
