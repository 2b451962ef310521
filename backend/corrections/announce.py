"""Tells Label Studio which version serves a project: pre-labels unlabelled tasks with it and names it.

Label Studio orders tasks by the uncertainty of predictions by the version that the project names, and accepts
only a version that has predictions. Every change of the serving version is announced, by a training or by
command: what serves is compared with what was announced last.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.prompts.model_client import NotReady
from backend.prompts.predictor import Predictor
from backend.prompts.request import Task
from backend.prompts.tasks import BadTask
from backend.settings import BackendSettings
from label_config import ConfigError, LabelConfig, read_config
from worker.jobs.queue import QueueUnavailable, SegmentQueue
from worker.store import Database
from worker.store.registry import Registry, RegistryError, split_name
from worker.store.tables import Announcement, now

log = logging.getLogger(__name__)

PREDICTION_WAIT_S = 600.0
MAX_WAITING = 32  # tasks that are asked for at the same time, so that workers can answer them in batches


def unannounced(registry: Registry, database: Database) -> list[str]:
    """Return the projects whose serving version Label Studio was not told of.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    projects = []
    with database.read() as session:
        for project in registry.projects():
            pointer = registry.serving_pointer(project)
            announced = session.get(Announcement, project)
            if pointer and pointer.adapter != (announced.adapter if announced else None):
                projects.append(project)
    return projects


def announce(settings: BackendSettings, database: Database, project: str) -> bool:
    """Pre-label unlabelled tasks with the version that serves a project, then make it the project's version.

    Nothing more is done as soon as another version serves the project.

    Args:
        settings: `prelabel_tasks` limits the number of tasks.
        database: Where proposals and announcements are recorded.
        project: The project's id.

    Returns:
        Whether it is done; if not, the reason is logged, and it has to be tried again.
    """
    try:
        done = asyncio.run(_announce(settings, database, project))
    except (LabelStudioUnavailable, ConfigError, QueueUnavailable, RegistryError) as error:
        log.warning("project %s: its version is not announced in Label Studio yet: %s", project, error)
        return False
    return done


async def _announce(settings: BackendSettings, database: Database, project: str) -> bool:
    label_studio = LabelStudioClient(settings)
    predictor = Predictor(settings, SegmentQueue(settings), database)
    try:
        pointer = Registry(settings).serving_pointer(project)
        adapter = pointer.adapter if pointer else None
        version = await predictor.version(project)
        if version is None:
            log.info("project %s: its version is announced when a worker is ready", project)
            return False
        predicted = 0
        if split_name(version)[1] == adapter:
            config = read_config(
                str((await asyncio.to_thread(label_studio.project, project))["label_config"])
            )
            rows = await asyncio.to_thread(label_studio.unlabelled, project, settings.prelabel_tasks)
            turns = asyncio.Semaphore(MAX_WAITING)
            stored = await asyncio.gather(
                *(_prelabel(row, turns, label_studio, predictor, config, project, version) for row in rows)
            )
            predicted = sum(stored)
            if predicted and await predictor.version(project) == version:
                await asyncio.to_thread(label_studio.set_version, project, version)
        else:
            log.warning("project %s: version %s is not of the base that workers have", project, adapter)
    finally:
        await predictor.aclose()
        label_studio.close()
    with database.session() as session:
        session.merge(Announcement(project=project, adapter=adapter, at=now()))
    log.info("project %s: %d tasks are pre-labelled by %s", project, predicted, version)
    return True


async def _prelabel(
    row: dict[str, Any],
    turns: asyncio.Semaphore,
    label_studio: LabelStudioClient,
    predictor: Predictor,
    config: LabelConfig,
    project: str,
    version: str,
) -> bool:
    """Store a prediction of a task unless it has one of this version; returns whether it has one then."""
    if any(prediction.get("model_version") == version for prediction in row.get("predictions") or []):
        return True
    async with turns:
        if await predictor.version(project) != version:
            log.info("project %s: %s does not serve any more", project, version)
            return False
        try:
            task = Task.model_validate(row)
            prediction = await predictor.prelabel(task, config, project, PREDICTION_WAIT_S)
        except (BadTask, NotReady) as error:
            log.warning("project %s, task %s is not pre-labelled: %s", project, row.get("id"), error)
            return False
        await asyncio.to_thread(label_studio.predict, task.id, prediction)
        return True
