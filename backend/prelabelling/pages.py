"""A project's tasks as an asynchronous stream, which outlives an absence of Label Studio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.prelabelling.patience import Failures, Patience


async def all_tasks(
    label_studio: LabelStudioClient,
    project: str,
    patience: Patience,
    *,
    details: bool,
    view: str | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Yield each task of a project once.

    Args:
        label_studio: The client.
        project: The project's number.
        patience: Waits while Label Studio is away; then the pages are read again from the first one.
        details: Whether the tasks come with their annotations and predictions.
        view: The number of a view of the Data Manager that chooses the tasks; None: all.

    Raises:
        LabelStudioUnavailable: Label Studio refuses, or is away for too long.
    """
    seen: set[int] = set()
    failures = Failures()
    while True:
        tasks = label_studio.tasks(project, details=details, view=view)
        try:
            while (task := await asyncio.to_thread(next, tasks, None)) is not None:
                patience.is_back()
                if task["id"] not in seen:
                    seen.add(task["id"])
                    failures = Failures()
                    yield task
        except LabelStudioUnavailable as error:
            await patience.wait(error, failures)
        else:
            return


def is_labelled(task: dict[str, Any]) -> bool:
    """Whether somebody has annotated or skipped a task; with and without details."""
    counts = ("total_annotations", "cancelled_annotations")
    return bool(task.get("annotations")) or any(task.get(name) for name in counts)
