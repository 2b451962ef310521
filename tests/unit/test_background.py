"""Background tasks are awaited or cancelled at shutdown, and an error in one of them stops nothing."""

from __future__ import annotations

import asyncio

import pytest

from backend.background import BackgroundTasks


@pytest.mark.parametrize(("cancel", "finished"), [(False, ["slow"]), (True, [])])
def test_closing_waits_or_cancels(cancel: bool, finished: list[str]) -> None:
    done: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0.05)
        done.append("slow")

    async def failing() -> None:
        raise RuntimeError

    async def run() -> None:
        tasks = BackgroundTasks()
        tasks.start(slow())
        tasks.start(failing())
        await tasks.aclose(cancel=cancel)

    asyncio.run(run())
    assert done == finished
