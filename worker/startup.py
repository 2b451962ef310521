"""Shared start-up of all processes: settings with readable errors, logging, exit codes."""

from __future__ import annotations

import logging
import sys
from typing import Any, TypeVar

from pydantic import ValidationError

from worker.settings import Settings

EXIT_FAILED = 1
EXIT_CANNOT_START = 2

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

AnySettings = TypeVar("AnySettings", bound=Settings)


def read_settings(kind: type[AnySettings], **overrides: Any) -> AnySettings:
    """Read settings from the environment.

    Args:
        kind: The settings class of the process.
        **overrides: Fields given on the command line; they win over the environment.

    Returns:
        The validated settings.

    Raises:
        SystemExit: With EXIT_CANNOT_START, after one line on standard error for each wrong variable.
    """
    try:
        return kind(**overrides)
    except ValidationError as error:
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            print(f"{str(problem['loc'][0]).upper()}: {message}", file=sys.stderr)
        raise SystemExit(EXIT_CANNOT_START) from None


def configure_logging(level: str) -> None:
    """Log to standard error from `level` on, one line for each record."""
    logging.basicConfig(level=level, stream=sys.stderr, format=LOG_FORMAT)
    for library in ("httpx", "alembic"):
        logging.getLogger(library).setLevel("WARNING")
