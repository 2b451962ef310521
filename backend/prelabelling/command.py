"""The command `python -m backend prelabel`: its arguments, its start and its end."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
from backend.prelabelling.asker import Asker
from backend.prelabelling.patience import Patience
from backend.prelabelling.preview import Preview, choose
from backend.prelabelling.progress import Progress
from backend.prelabelling.questions import (
    BadQuestions,
    QuestionsOf,
    about_every_label,
    from_ontology,
    one_prompt,
)
from backend.prelabelling.run import Run, Selection, Services
from backend.prelabelling.watch import Watch
from backend.prompts.model_client import ModelClient
from backend.prompts.proposal_log import ProposalLog
from backend.prompts.shown_version import ShownVersion
from backend.settings import BackendSettings
from label_config import ConfigError, LabelConfig, read_config
from worker.images.fetch import ImageFetcher
from worker.jobs.queue import SegmentQueue
from worker.settings import WorkerSettings
from worker.startup import EXIT_CANNOT_START, EXIT_FAILED, read_settings
from worker.store import Database, DatabaseUnavailable
from worker.store.registry import Registry

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# More than wait for Label Studio, images and the database at once, so that looking for a worker never does.
NUM_THREADS = 32
NOT_WITH_WATCH = ("labels", "prompt", "ontology", "limit", "again", "preview", "out")
STOPPED = "Stopped; the same command goes on with the tasks that are left."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--project", required=True, help="the project's number")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--labels", action="store_true", help="ask for every label of the project (the default)"
    )
    asked.add_argument("--prompt", help="ask this about every task")
    asked.add_argument("--ontology", type=Path, metavar="FILE", help='JSON: {"prompt": "Label", ...}')
    parser.add_argument(
        "--view", metavar="ID", help="only tasks of this view (tab) of the Data Manager, by its number"
    )
    parser.add_argument("--only-unlabelled", action="store_true", help="leave out labelled tasks")
    parser.add_argument("--limit", type=_positive, metavar="K", help="ask about K tasks at the most")
    parser.add_argument(
        "--again", action="store_true", help="also ask about tasks that were asked the same before"
    )
    parser.add_argument(
        "--preview", type=_positive, metavar="K", help="store nothing; draw K tasks into a page"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="ask nothing; show how far the predictions are that somebody else asked for",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: prelabel-PROJECT.html)")


def prelabel(arguments: argparse.Namespace, settings: BackendSettings) -> int:
    """Run the command.

    Args:
        arguments: What `add_arguments` parses.
        settings: The backend's settings.

    Returns:
        The process's exit code: 1 if a task has failed, 2 if the run could not begin or go on, 130 after
        Ctrl-C.
    """
    try:
        label_studio = LabelStudioClient(settings)
        try:
            command = Command(arguments, settings, label_studio)
            if arguments.watch:
                return asyncio.run(command.watch())
            return asyncio.run(command.preview() if arguments.preview else command.run())
        finally:
            label_studio.close()
    except (LabelStudioUnavailable, DatabaseUnavailable, ConfigError, BadQuestions) as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START
    except KeyboardInterrupt:
        print("Stopped." if arguments.preview or arguments.watch else STOPPED, file=sys.stderr)
        return EXIT_INTERRUPTED


class Command:
    """A run or a preview for one project."""

    def __init__(
        self, arguments: argparse.Namespace, settings: BackendSettings, label_studio: LabelStudioClient
    ) -> None:
        """Read the project and check the questions.

        Raises:
            LabelStudioUnavailable: Label Studio does not answer or refuses.
            ConfigError: The labeling configuration cannot be used.
            BadQuestions: The prompt, the ontology or the page's place cannot be used.
        """
        self._arguments = arguments
        self._settings = settings
        self._label_studio = label_studio
        self._project: str = arguments.project
        self._page = arguments.out or Path(f"prelabel-{self._project}.html")
        if arguments.watch and any(getattr(arguments, name) for name in NOT_WITH_WATCH):
            raise BadQuestions("--watch asks nothing; it goes with --view and --only-unlabelled only.")
        if arguments.out and not arguments.preview:
            raise BadQuestions("--out is the page of a preview; add --preview 12.")
        if arguments.preview and not (self._page.parent.is_dir() and os.access(self._page.parent, os.W_OK)):
            raise BadQuestions(f"{self._page.parent} is no folder that can be written to (--out).")
        row = label_studio.project(self._project)
        self._title = str(row.get("title") or f"Project {self._project}")
        self._config = read_config(str(row["label_config"]))
        self._questions_of = _questions(arguments, self._config)
        self._num_tasks = self._count_view() if arguments.view else int(row.get("task_number") or 0)

    def _count_view(self) -> int:
        view = self._arguments.view
        how = 'its number is "tab" in the Data Manager\'s address.'
        if not view.isdecimal():
            raise BadQuestions(f"--view {view} is no number of a view; {how}")
        try:
            return self._label_studio.count_tasks(self._project, view)
        except LabelStudioUnavailable as error:
            if error.status in (400, 404, 500):
                raise BadQuestions(f"Project {self._project} has no view {view} (--view); {how}") from error
            raise

    async def run(self) -> int:
        """Pre-label the tasks and print the summary."""
        _use_threads(NUM_THREADS)
        database = Database(self._settings)
        await asyncio.to_thread(database.migrate)
        limit = self._arguments.limit
        total = self._num_tasks if limit is None else min(limit, self._num_tasks)
        queue = SegmentQueue(self._settings)
        proposals = ProposalLog(database)
        with Progress(total) as progress:
            services = Services(
                label_studio=self._label_studio,
                asker=self._asker(queue, progress),
                database=database,
                proposals=proposals,
                shown_version=ShownVersion(self._settings),
                patience=Patience(progress.note),
                progress=progress,
            )
            selection = self._selection()
            run = Run(
                services,
                self._project,
                self._config,
                self._questions_of,
                selection,
                self._settings.model_score_threshold,
            )
            try:
                await run.run()
            finally:
                await proposals.aclose()
                await queue.aclose()
                database.close()
                progress.close()
                print(f"Project {self._project}: " + "\n".join(run.summary.lines()))
        return EXIT_FAILED if run.summary.failed else 0

    async def preview(self) -> int:
        """Ask about some tasks and write the page."""
        _use_threads(NUM_THREADS)
        fetcher = ImageFetcher(read_settings(WorkerSettings))
        queue = SegmentQueue(self._settings)
        count: int = self._arguments.preview
        with Progress(min(count, self._num_tasks)) as progress:
            try:
                tasks = await choose(
                    self._label_studio,
                    self._project,
                    Patience(progress.note),
                    self._arguments.only_unlabelled,
                    count,
                    self._arguments.view,
                )
                preview = Preview(
                    self._asker(queue, progress),
                    fetcher,
                    self._config,
                    self._settings.model_score_threshold,
                    progress,
                )
                text = await preview.html(self._title, tasks, self._questions_of)
            finally:
                await queue.aclose()
        await asyncio.to_thread(self._page.write_text, text, "utf-8")
        print(f"{len(tasks)} tasks are drawn in {self._page}; nothing is stored in Label Studio.")
        return 0

    async def watch(self) -> int:
        """Show how far the predictions are until there are no more to come."""
        _use_threads(NUM_THREADS)
        queue = SegmentQueue(self._settings)
        with Progress(self._num_tasks) as progress:
            try:
                done, total, version = await Watch(
                    self._label_studio,
                    self._project,
                    self._asker(queue, progress),
                    queue,
                    self._selection(),
                    Patience(progress.note),
                    progress,
                ).run()
            finally:
                await queue.aclose()
        print(f"Project {self._project}: {done} of {total} tasks have a prediction by {version}.")
        if done < total:
            print(
                "  Nothing more is on its way. The backend's log says why tasks failed; "
                "`python -m backend prelabel` asks about those that are left."
            )
        return EXIT_FAILED if done < total else 0

    def _selection(self) -> Selection:
        arguments = self._arguments
        return Selection(arguments.only_unlabelled, arguments.limit, arguments.again, arguments.view)

    def _asker(self, queue: SegmentQueue, progress: Progress) -> Asker:
        registry = Registry(self._settings)
        return Asker(
            ModelClient(queue, registry),
            registry,
            self._project,
            self._config,
            progress.note,
            self._settings.min_region_share,
        )


def _use_threads(count: int) -> None:
    """Let `asyncio.to_thread` use so many threads; its own limit depends on the number of processors."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count))


def _questions(arguments: argparse.Namespace, config: LabelConfig) -> QuestionsOf:
    if arguments.prompt is not None:
        return one_prompt(arguments.prompt)
    if arguments.ontology is not None:
        return from_ontology(arguments.ontology, config)
    return about_every_label(config)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
