"""Asks about a few tasks of a project, evenly chosen, and makes a contact sheet; nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from backend.label_studio.client import LabelStudioClient
from backend.prelabelling.asker import Answers, Asker
from backend.prelabelling.contact_sheet import Card, Target, contact_sheet
from backend.prelabelling.drawing import label_colours, paint
from backend.prelabelling.pages import all_tasks, is_labelled
from backend.prelabelling.patience import Patience
from backend.prelabelling.progress import Progress
from backend.prelabelling.questions import Questions, QuestionsOf
from backend.prompts.model_client import JobFailed
from backend.prompts.regions import answer_text, is_shown
from backend.prompts.request import Task
from backend.prompts.tasks import BadTask
from label_config import LabelConfig, map_label
from worker.images.decode import ImageError
from worker.images.fetch import ImageFetcher
from worker.jobs.masks import is_empty

MAX_DRAWN = 4  # images in memory at once

T = TypeVar("T")


async def choose(
    label_studio: LabelStudioClient,
    project: str,
    patience: Patience,
    only_unlabelled: bool,
    count: int,
    view: str | None = None,
) -> list[Task]:
    """Choose tasks at even distances in a project.

    Args:
        label_studio: The client.
        project: The project's number.
        patience: Waits while Label Studio is away.
        only_unlabelled: Leave out tasks that somebody has labelled or skipped.
        count: How many tasks; fewer if the project has fewer.
        view: The number of a view of the Data Manager that chooses the tasks; None: all.

    Raises:
        LabelStudioUnavailable: Label Studio refuses, or is away for too long.
    """
    tasks = [
        Task(id=row["id"], data=row["data"])
        async for row in all_tasks(label_studio, project, patience, details=False, view=view)
        if not (only_unlabelled and is_labelled(row))
    ]
    return evenly(tasks, count)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return `count` items at even distances, from the middles of equal parts.

    >>> evenly(range(10), 5)
    [1, 3, 5, 7, 9]
    """
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


class Preview:
    """Makes contact sheets for one project; belongs to one event loop."""

    def __init__(
        self, asker: Asker, fetcher: ImageFetcher, config: LabelConfig, min_score: float, progress: Progress
    ) -> None:
        """Set up.

        Args:
            asker: Asks the model.
            fetcher: Reads the images as a worker does.
            config: The project's labeling configuration.
            min_score: Targets with a lower score are left out.
            progress: Counts the tasks.
        """
        self._asker = asker
        self._fetcher = fetcher
        self._config = config
        self._min_score = min_score
        self._progress = progress
        self._slots = asyncio.Semaphore(MAX_DRAWN)

    async def html(self, title: str, tasks: Sequence[Task], questions_of: QuestionsOf) -> str:
        """Ask about tasks and return the page."""
        version = await self._asker.version() if tasks else "no version"
        prompts: dict[str, None] = {}
        cards = await asyncio.gather(*(self._card(task, questions_of, prompts) for task in tasks))
        shown = "; ".join(prompts) if len(prompts) <= 20 else f"{len(prompts)} prompts"
        return contact_sheet(title, f"{len(tasks)} tasks, {version}: {shown}", cards)

    async def _card(self, task: Task, questions_of: QuestionsOf, prompts: dict[str, None]) -> Card:
        """Ask about a task and draw the answers; adds what was asked to `prompts`."""
        try:
            questions = questions_of(task)
            prompts |= dict.fromkeys(questions)
            answers = await self._asker.ask(task, questions)
            async with self._slots:
                return await asyncio.to_thread(self._draw, task, answers, questions)
        except (BadTask, JobFailed, ImageError) as error:
            return Card(task.id, failure=str(error))
        finally:
            self._progress.step()

    def _draw(self, task: Task, answers: Answers, questions: Questions) -> Card:
        config = self._config.for_task(task.data)
        colours = label_colours(config)
        image = self._fetcher.load(config.image_of(task.data), str(task.id))
        targets, masks, texts = [], [], []
        for job, result in answers:
            texts.append(answer_text(result, config, self._min_score, questions[job.prompt]))
            for target in result.targets:
                label = questions[job.prompt] or map_label(target.phrase, config)
                if is_shown(target, config, self._min_score, label):
                    colour = colours.get(label, colours[None])
                    row = Target(label, target.score, target.phrase, colour, is_empty(target.mask))
                    targets.append(row)
                    if not row.is_empty:
                        masks.append((target.mask, row.colour))
        return Card(task.id, paint(image, masks), targets, " ".join(text for text in texts if text))
