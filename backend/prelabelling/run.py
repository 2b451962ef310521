"""Pre-labels the tasks of a project: which tasks are asked about, and what is stored."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.prelabelling import predictions
from backend.prelabelling.asker import MAX_OUTSTANDING, Answers, Asker
from backend.prelabelling.pages import all_tasks, is_labelled
from backend.prelabelling.patience import Patience
from backend.prelabelling.progress import Progress
from backend.prelabelling.questions import Questions, QuestionsOf
from backend.prelabelling.summary import Summary
from backend.prompts.model_client import JobFailed
from backend.prompts.proposal_log import ProposalLog
from backend.prompts.regions import Prediction, hidden_targets
from backend.prompts.request import Task
from backend.prompts.shown_version import ShownVersion
from backend.prompts.tasks import BadTask
from label_config import LabelConfig
from worker.store import Database

MAX_TASKS_IN_PROGRESS = MAX_OUTSTANDING
# Every further prediction would be refused too, or Label Studio has been away for too long.
FATAL_STATUSES = (401, 403, 429, 502, 503, 504)


@dataclass(frozen=True)
class Selection:
    """Which tasks are asked about.

    Attributes:
        only_unlabelled: Leave out tasks that somebody has labelled or skipped.
        limit: Ask about this many tasks at the most; None: all.
        again: Also ask about tasks that have a prediction for the same questions.
        view: The number of a view of the Data Manager that chooses the tasks; None: all.
    """

    only_unlabelled: bool = False
    limit: int | None = None
    again: bool = False
    view: str | None = None


@dataclass(frozen=True)
class Services:
    """What a run talks to, all for one project."""

    label_studio: LabelStudioClient
    asker: Asker
    database: Database
    proposals: ProposalLog
    shown_version: ShownVersion
    patience: Patience
    progress: Progress


class Run:
    """One run over a project's tasks; belongs to one event loop.

    Attributes:
        summary: What became of the tasks so far; valid after an interruption too.
    """

    def __init__(
        self,
        services: Services,
        project: str,
        config: LabelConfig,
        questions_of: QuestionsOf,
        selection: Selection,
        min_score: float = 0.0,
    ) -> None:
        """Set up.

        Args:
            services: What the run talks to.
            project: The project's number.
            config: Its labeling configuration.
            questions_of: What to ask about a task.
            selection: Which tasks to ask about.
            min_score: Targets with a lower score are left out.
        """
        self._services = services
        self._project = project
        self._config = config
        self._questions_of = questions_of
        self._selection = selection
        self._min_score = min_score
        self._in_progress = asyncio.Semaphore(MAX_TASKS_IN_PROGRESS)
        self._shown: set[str] = set()
        self.summary = Summary()

    async def run(self) -> None:
        """Go through all tasks.

        Raises:
            LabelStudioUnavailable: Label Studio refuses all predictions, or is away for too long.
            DatabaseUnavailable: The database cannot be used.
        """
        services, num_asked = self._services, 0
        tasks = all_tasks(
            services.label_studio,
            self._project,
            services.patience,
            details=True,
            view=self._selection.view,
        )
        try:
            async with asyncio.TaskGroup() as group:
                async for row in tasks:
                    task = Task(id=row["id"], data=row["data"])
                    if self._selection.only_unlabelled and is_labelled(row):
                        self.summary.labelled += 1
                        services.progress.skip()
                        continue
                    try:
                        questions = self._questions_of(task)
                    except BadTask as error:
                        self.summary.add_failure(task.id, str(error))
                        services.progress.step()
                        continue
                    if await self._is_skipped(row, questions):
                        services.progress.skip()
                        continue
                    await self._in_progress.acquire()
                    group.create_task(self._predict(task, questions, row.get("predictions") or []))
                    num_asked += 1
                    if num_asked == self._selection.limit:
                        break
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _is_skipped(self, row: dict[str, Any], questions: Questions) -> bool:
        if self._selection.again or not row.get("predictions"):
            return False
        version = await self._services.asker.version()
        stored = predictions.of_version(row["predictions"], version)
        if stored is None or not await self._answers(stored, questions, row["id"], version):
            return False
        self.summary.already_done += 1
        await self._show(version)
        return True

    async def _answers(self, stored: dict[str, Any], questions: Questions, task: int, version: str) -> bool:
        """Whether a stored prediction answers these questions."""
        if asked := predictions.asked_in(stored):
            return asked == dict(questions)
        return await asyncio.to_thread(
            predictions.found_nothing, self._services.database, self._project, task, version, questions
        )

    async def _predict(self, task: Task, questions: Questions, stored: list[dict[str, Any]]) -> None:
        """Ask about a task and store its prediction."""
        config = self._config.for_task(task.data)
        try:
            answers = await self._services.asker.ask(task, questions)
            prediction = await asyncio.to_thread(
                predictions.build, answers, questions, config, self._min_score
            )
            await self._store(task.id, prediction, stored)
        except (BadTask, JobFailed) as error:
            self.summary.add_failure(task.id, str(error))
        except LabelStudioUnavailable as error:
            if error.status is None or error.status in FATAL_STATUSES:
                raise
            self.summary.add_failure(task.id, str(error))
        else:
            self._count(answers, questions, config, prediction)
            await self._show(prediction["model_version"])
        finally:
            self._in_progress.release()
        self._services.progress.step()

    async def _store(self, task: int, prediction: Prediction, stored: list[dict[str, Any]]) -> None:
        """Store a prediction in place of an earlier one of its version.

        The editor opens a task with the first prediction of the version that the project names, so a second
        one would not be seen. One without masks is stored too: Label Studio asks the backend about each
        opened task that has no prediction, and about each task of a batch that has none of the version.
        """
        attempts = 0

        def send() -> None:
            nonlocal attempts, stored
            attempts += 1
            client = self._services.label_studio
            if attempts > 1:  # the first attempt may have been stored although its response was lost
                stored = client.predictions(task)
            earlier = predictions.of_version(stored, prediction["model_version"])
            if earlier is None:
                client.predict(task, prediction)
            else:
                client.replace_prediction(earlier["id"], prediction)

        await self._services.patience.call(send)

    def _count(
        self, answers: Answers, questions: Questions, config: LabelConfig, prediction: Prediction
    ) -> None:
        for job, result in answers:
            hidden = hidden_targets(result, config, self._min_score, questions[job.prompt])
            self._services.proposals.record(job, result, hidden)
            self.summary.unknown.update(result.unknown)
        if has_masks(prediction):
            self.summary.predicted += 1
        else:
            self.summary.nothing_found += 1

    async def _show(self, version: str) -> None:
        """Have the project show the scores of a version's predictions, once in a run."""
        if version in self._shown:
            return
        self._shown.add(version)
        try:
            await self._services.patience.call(
                lambda: self._services.shown_version.show(self._project, version)
            )
        except LabelStudioUnavailable as error:
            self._services.progress.note(f"The Data Manager does not show the scores of {version}: {error}")


def has_masks(prediction: Prediction) -> bool:
    """Whether a prediction has regions; the model's answer is none."""
    return any(item["type"] != "textarea" for item in prediction["result"])
