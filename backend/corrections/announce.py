"""After a promotion: predictions of the new version for tasks that wait, and its name in Label Studio.

Label Studio orders tasks by uncertainty among predictions of the version that the project names, and takes
only a name that some prediction has.
"""

from __future__ import annotations

import asyncio
import functools
import logging

from backend.label_studio.client import LabelStudioApi
from backend.prompts.model_client import Unanswered
from backend.prompts.predictor import BadTask, Predictor, Task
from backend.settings import BackendSettings
from label_config import read_config
from worker.jobs.queue import SegmentQueue
from worker.store import Database

log = logging.getLogger(__name__)

ANSWER_WAIT_S = 600.0


def announce(settings: BackendSettings, database: Database, project: str, version: str) -> int:
    """Pre-labels up to `prelabel_tasks` waiting tasks with `version`, if that still serves; then has the
    project name it. Returns how many. Raises LabelStudioUnavailable, ConfigError, QueueUnavailable."""
    return asyncio.run(_announce(settings, database, project, version))


async def _announce(settings: BackendSettings, database: Database, project: str, version: str) -> int:
    api = LabelStudioApi(settings)
    predictor = Predictor(settings, SegmentQueue(settings), database)
    predicted = 0
    try:
        config = read_config(str((await asyncio.to_thread(api.project, project))["label_config"]))
        listing = functools.partial(api.unlabelled, project, settings.prelabel_tasks)
        for row in await asyncio.to_thread(listing):
            if await predictor.version(project) != version:
                log.info("project %s: %s does not serve any more", project, version)
                return predicted
            task = Task.model_validate(row)
            try:
                prediction = await predictor.prelabel(task, config, project, ANSWER_WAIT_S)
            except (BadTask, Unanswered) as error:
                log.warning("project %s, task %d is not pre-labelled: %s", project, task.id, error)
                continue
            await asyncio.to_thread(api.predict, task.id, prediction)
            predicted += 1
        if predicted:
            await asyncio.to_thread(api.name_version, project, version)
    finally:
        await predictor.aclose()
        api.close()
    log.info("project %s: %d tasks are pre-labelled by %s", project, predicted, version)
    return predicted
