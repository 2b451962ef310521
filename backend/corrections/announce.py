"""After a promotion: pre-labels unlabelled tasks with the new version and names it in Label Studio.

Label Studio orders tasks by the uncertainty of predictions by the version that the project names, and accepts
only a version that has predictions.
"""

from __future__ import annotations

import asyncio
import logging

from backend.label_studio.client import LabelStudioClient
from backend.prompts.model_client import NotReady
from backend.prompts.predictor import Predictor
from backend.prompts.request import Task
from backend.prompts.tasks import BadTask
from backend.settings import BackendSettings
from label_config import read_config
from worker.jobs.queue import SegmentQueue
from worker.store import Database

log = logging.getLogger(__name__)

PREDICTION_WAIT_S = 600.0


def announce(settings: BackendSettings, database: Database, project: str, version: str) -> int:
    """Pre-label unlabelled tasks with a version, then make it the project's version.

    Nothing more is done as soon as another version serves the project.

    Args:
        settings: `prelabel_tasks` limits the number of tasks.
        database: Where the proposals are recorded.
        project: The project's id.
        version: The promoted version's name.

    Returns:
        How many tasks have a new prediction.

    Raises:
        LabelStudioUnavailable: Label Studio does not answer or refuses.
        ConfigError: The project's labeling configuration cannot be used.
        QueueUnavailable: Redis cannot be used.
    """
    return asyncio.run(_announce(settings, database, project, version))


async def _announce(settings: BackendSettings, database: Database, project: str, version: str) -> int:
    label_studio = LabelStudioClient(settings)
    predictor = Predictor(settings, SegmentQueue(settings), database)
    predicted = 0
    try:
        config = read_config(str((await asyncio.to_thread(label_studio.project, project))["label_config"]))
        rows = await asyncio.to_thread(label_studio.unlabelled, project, settings.prelabel_tasks)
        for row in rows:
            if await predictor.version(project) != version:
                log.info("project %s: %s does not serve any more", project, version)
                return predicted
            task = Task.model_validate(row)
            try:
                prediction = await predictor.prelabel(task, config, project, PREDICTION_WAIT_S)
            except (BadTask, NotReady) as error:
                log.warning("project %s, task %d is not pre-labelled: %s", project, task.id, error)
                continue
            await asyncio.to_thread(label_studio.predict, task.id, prediction)
            predicted += 1
        if predicted:
            await asyncio.to_thread(label_studio.set_version, project, version)
    finally:
        await predictor.aclose()
        label_studio.close()
    log.info("project %s: %d tasks are pre-labelled by %s", project, predicted, version)
    return predicted
