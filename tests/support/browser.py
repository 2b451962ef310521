"""The browser of the tests that need one."""

from __future__ import annotations

import os

import pytest

from demo import system


def chromium_path() -> str:
    """The browser's path. Skips the test where there is none, and fails it where tools are required."""
    found = system.chromium()
    if found is None:
        missing = f"Chromium is missing; {system.HOW}"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
