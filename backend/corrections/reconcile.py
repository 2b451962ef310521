"""Compares the corrections of a project with Label Studio's annotations, and applies what was missed.

Nothing is forgotten because it was not on a page: pages shift while they are read. An annotation is forgotten
only if Label Studio, asked for it by its id, answers 404. What was forgotten and is there comes back.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from sqlalchemy import select

from backend.corrections.annotation import UnreadableAnnotation
from backend.corrections.collector import Collector
from backend.label_studio.client import LabelStudioClient
from label_config import ConfigError
from worker.images.decode import ImageError
from worker.store import corrections as corrections_store
from worker.store.tables import Correction, now

log = logging.getLogger(__name__)


def reconcile(collector: Collector, project: str) -> dict[str, int]:
    """Compare the corrections with Label Studio's annotations, and apply the missed changes.

    Args:
        collector: Stores and forgets corrections.
        project: The project's id.

    Returns:
        How many annotations were `seen`, `taken` because they were new, `deleted`, and `failed`.

    Raises:
        LabelStudioUnavailable: Label Studio does not answer; then nothing counts as deleted.
        DatabaseUnavailable: The database cannot be used.
    """
    label_studio = LabelStudioClient(collector.settings)
    try:
        return _reconcile(collector, project, label_studio)
    finally:
        label_studio.close()


def _reconcile(collector: Collector, project: str, label_studio: LabelStudioClient) -> dict[str, int]:
    label_config = str(label_studio.project(project)["label_config"])
    counts = {"seen": 0, "taken": 0, "deleted": 0, "failed": 0}
    seen = set()
    started_at = now()

    def take(annotation: dict[str, Any], task: dict[str, Any]) -> None:
        counts["seen"] += 1
        seen.add(str(annotation["id"]))
        counts["taken"] += _take(collector, project, annotation, task, label_config, started_at, counts)

    for task in label_studio.tasks(project):
        for annotation in task.get("annotations", []):
            take(annotation, task)
    deleted = []
    for annotation_id in _known(collector, project, started_at):
        if annotation_id in seen:
            continue
        annotation = label_studio.annotation(annotation_id)
        if annotation is None:
            deleted.append(annotation_id)
        else:
            task_id = annotation["task"]
            take(annotation, label_studio.task(str(task_id)))
    collector.forget(deleted, project)
    counts["deleted"] = len(deleted)
    log.info("project %s is reconciled: %s", project, counts)
    return counts


def _take(
    collector: Collector,
    project: str,
    annotation: dict[str, Any],
    task: dict[str, Any],
    label_config: str,
    started_at: datetime,
    counts: dict[str, int],
) -> bool:
    """Store an annotation that Label Studio has; returns whether it was new."""
    with collector.database.session() as session:
        corrections_store.revive(session, str(annotation["id"]), str(task["id"]), started_at)
    try:
        return collector.store(annotation, task, project, label_config)
    except (ImageError, ConfigError, UnreadableAnnotation) as error:
        reason = str(error)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"it is not what Label Studio sends ({type(error).__name__}: {error})"
    counts["failed"] += 1
    log.warning("annotation %s is not learned from: %s", annotation["id"], reason)
    return False


def _known(collector: Collector, project: str, started_at: datetime) -> list[str]:
    """Return the annotations that Label Studio should have."""
    with collector.database.read() as session:
        # An annotation that was stored while the pages were read may be on none of them.
        return list(
            session.scalars(
                select(Correction.annotation).where(
                    Correction.project == project,
                    Correction.status != "deleted",
                    Correction.taken_at < started_at,
                )
            )
        )
