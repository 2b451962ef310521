"""Where Label Studio's /predict requests enter: interactive prompts and batches.

An interactive request has a context (`context.result`; Label Studio sends it empty after a submit). The
response waits for the model's answer.

A request without a context is a batch. Label Studio also sends one when somebody opens a task, and the page
waits for the response; with a single task the two cannot be told apart. A single task is therefore answered
at once with what is known, and its prediction is sent later. If the project has a prompt control, a single
task without a prompt of its own gets no masks, because the annotator is about to type a prompt. Instead a
worker encodes its image, so that it is ready by then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from backend.prompts.editing import Edit, needs_masks, read_edit
from backend.prompts.everything import as_one, asks_for_everything, labels_questions
from backend.prompts.focus import Focus, Meant
from backend.prompts.follow_up import follow_up
from backend.prompts.image_warmer import ImageWarmer
from backend.prompts.late_predictions import LatePredictions
from backend.prompts.marked import marked_targets
from backend.prompts.model_client import JobFailed, ModelClient, NotReady
from backend.prompts.pending_store import PendingPrediction
from backend.prompts.pointing import Pointing, read_pointing, region_pointed_at
from backend.prompts.proposal_log import ProposalLog
from backend.prompts.refining import LatestMasks, build_refinement, name_of
from backend.prompts.region_edits import NOTHING_TO_CHANGE, RegionEditor, chooses, with_note_on_new
from backend.prompts.regions import (
    Prediction,
    answer_item,
    answer_item_without_config,
    build_prediction,
    hidden_targets,
)
from backend.prompts.request import Context, PredictRequest, Task
from backend.prompts.shapes import without_speckles
from backend.prompts.shown_version import ShownVersion
from backend.prompts.tasks import (
    BadTask,
    batch_prompt,
    earlier_prompts,
    newest_item_index,
    newest_text,
    own_prompt,
    project_id,
    segment_job,
    warm_job,
)
from backend.settings import BackendSettings
from label_config import ConfigError, LabelConfig, read_config
from worker.jobs.contract import SegmentJob, SegmentResult, Turn
from worker.jobs.masks import to_rle
from worker.jobs.queue import WAITING_TTL_S, QueueUnavailable, SegmentQueue
from worker.store import Database
from worker.store.registry import Registry

log = logging.getLogger(__name__)

# The entry of a task without a prediction. Label Studio stores none: it takes a list of predictions too.
NO_PREDICTION: list[Prediction] = []
# The entry of an interactive request without a prompt; the editor cannot read an empty list.
NO_PROMPT: Prediction = {"result": []}
NAME_IN_FULL = (
    'Name the thing, for example "the cup". "only the left one" works while masks wait to be accepted.'
)
NO_MASKS_TO_POINT_AT = (
    "Points and boxes correct masks, and this project has none: ask in words, or add <BrushLabels> to its "
    "labeling configuration."
)


class RequestRefused(Exception):
    """The request cannot be answered.

    Attributes:
        status: The HTTP status to respond with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Predictor:
    """Answers /predict requests; belongs to one event loop, which also runs its background tasks."""

    def __init__(self, settings: BackendSettings, queue: SegmentQueue, database: Database) -> None:
        self._settings = settings
        self._queue = queue
        self._registry = Registry(settings)
        self._model = ModelClient(queue, self._registry)
        self._proposals = ProposalLog(database)
        self._late = LatePredictions(settings, self._model, self._build)
        self._warmer = ImageWarmer(self._model)
        self._shown_version = ShownVersion(settings)
        self._latest_masks = LatestMasks()
        self._focus = Focus()
        self._editor = RegionEditor(self._model, settings.predict_wait_s)

    def start(self) -> None:
        """Begin with what earlier processes still owed to Label Studio; `aclose` ends it."""
        self._late.start()

    async def predict(self, request: PredictRequest) -> list[Prediction | list[Prediction]]:
        """Answer a request.

        Returns:
            One entry for each task, in order; an empty list where there is no prediction yet.

        Raises:
            RequestRefused: The labeling configuration or the request cannot be used, or the queue is
                unavailable.
        """
        if request.context is not None and len(request.tasks) != 1:
            raise RequestRefused("A prompt is about one task; send exactly one with a context.", 400)
        try:
            config = read_config(request.label_config)
        except ConfigError as error:
            log.warning("project %s: %s", request.project, error)
            if request.context is not None:
                item = answer_item_without_config(request.label_config, str(error))
                if item is not None:
                    return [{"result": [item]}]
            raise RequestRefused(str(error), 400) from error
        if request.context is not None:
            return [await self._interactive(request.tasks[0], request.context, config, request.project)]
        try:
            return await self._batch(request, config)
        except QueueUnavailable as error:
            raise RequestRefused(str(error), 503) from error

    async def prelabel(self, task: Task, config: LabelConfig, project: str, wait_s: float) -> Prediction:
        """Answer a task's own prompt, or one that asks for every label, at batch priority.

        Args:
            task: The task.
            config: Its project's labeling configuration.
            project: Its project's id.
            wait_s: How long to wait for the result.

        Returns:
            The prediction.

        Raises:
            BadTask: The task cannot be used.
            NotReady: There is no result after `wait_s`, or the job has failed (`JobFailed`).
            QueueUnavailable: Redis cannot be used.
        """
        config = config.for_task(task.data)
        job = segment_job(task, batch_prompt(task, config), config, project, "batch")
        return await self._build(job, await self._model.ask(job, wait_s), config)

    async def version(self, project: str | None = None) -> str | None:
        """Return the model version that serves a project, None while no worker is ready.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        base = await self._loaded_version()
        return base and self._registry.serving(project_id(project), base)

    async def versions(self) -> list[str]:
        """Return the base version that is served, then its fine-tuned versions, newest first.

        Raises:
            QueueUnavailable: Redis cannot be used.
        """
        base = await self._loaded_version()
        return [base, *self._registry.names(base)] if base else []

    async def aclose(self) -> None:
        """End the background tasks and close the connections to Redis."""
        await self._late.aclose()
        await self._warmer.aclose()
        await self._shown_version.aclose()
        await self._proposals.aclose()
        await self._queue.aclose()

    async def _loaded_version(self) -> str | None:
        return next((worker.model_version for worker in await self._model.workers()), None)

    async def _interactive(
        self, task: Task, context: Context, config: LabelConfig, project: str | None
    ) -> Prediction:
        prompt = newest_text(context.result, config.prompt)
        config = config.for_task(task.data, newest_item_index(context.result, config.prompt))
        pointing = read_pointing(context.result, config)
        if not prompt and pointing is None:
            return NO_PROMPT
        try:
            if pointing is not None:
                config = config.for_task(task.data, pointing.item_index)
                return await self._refine(task, pointing, config, project)
            edited = await self._edit(task, prompt, config, project)
            self._focus.end_pointing(task, config)
            if edited is not None:
                return edited
            job = segment_job(task, prompt, config, project, "interactive")
            if asks_for_everything(prompt) and (questions := labels_questions(config, prompt)):
                prediction = await self._everything(job, questions, config, task)
            else:
                job = await self._with_history(job, task)
                result = await self._model.ask(job, self._settings.predict_wait_s)
                prediction = await self._build(job, with_note_on_new(prompt, result), config, task)
            self._focus.remember(task, config, prediction["result"], pointed=False)
            return prediction
        except (BadTask, NotReady, QueueUnavailable) as error:
            log.info("project %s, task %d: %s", project, task.id, error)
            if config.answer is None:
                raise RequestRefused(str(error), 400 if isinstance(error, BadTask) else 503) from error
            return {"result": answer_item(config, str(error))}

    async def _everything(
        self, job: SegmentJob, questions: Sequence[str], config: LabelConfig, task: Task
    ) -> Prediction:
        """Ask several prompts in place of the one of `job`."""
        jobs = [job.model_copy(update={"prompt": question}) for question in questions]
        asked = (self._model.ask(each, self._settings.predict_wait_s) for each in jobs)
        results = await asyncio.gather(*asked)
        built = [
            await self._build(each, result, config, task) for each, result in zip(jobs, results, strict=True)
        ]
        return as_one(built, results, config, self._settings.model_score_threshold)

    async def _refine(
        self, task: Task, pointing: Pointing, config: LabelConfig, project: str | None
    ) -> Prediction:
        if not config.masks:
            raise BadTask(NO_MASKS_TO_POINT_AT)
        region = await asyncio.to_thread(region_pointed_at, pointing, task, config)
        draft = mask = None
        if region is not None:
            draft = await asyncio.to_thread(to_rle, region.mask)
            mask = self._latest_masks.current(task.id, region.id, draft)
        job = segment_job(task, name_of(region), config, project, "interactive").model_copy(
            update={
                "clicks": pointing.clicks,
                "box": pointing.box,
                "mask": mask,
            }
        )
        result = await self._model.ask(job, self._settings.predict_wait_s)
        if region is not None and draft is not None and result.targets:
            self._latest_masks.remember(task.id, region.id, draft, result.targets[0].mask)
        prediction = await asyncio.to_thread(build_refinement, result, config, pointing, region)
        self._focus.remember(task, config, prediction["result"], pointed=True)
        return prediction

    async def _edit(
        self, task: Task, prompt: str, config: LabelConfig, project: str | None
    ) -> Prediction | None:
        """Change the masks that were shown last, if that is what a prompt asks for; else None."""
        edit = read_edit(prompt)
        if edit is None or not config.masks:
            return None
        meant = await asyncio.to_thread(self._focus.meant, task, config)
        if not meant.regions:
            may_be_a_question = edit.kind in ("choose", "add") or bool(edit.noun)
            return None if may_be_a_question else {"result": answer_item(config, NOTHING_TO_CHANGE)}
        if await self._is_for_the_model(edit, meant):
            return None
        edited = await self._editor.apply(edit, meant, task, config, project)
        if edited is None:
            return None
        edited = edited.with_waiting(meant)
        if edited.items:
            self._focus.remember(task, config, edited.items, pointed=False)
        for region, mask in edited.masks.items():
            if region in meant.drafts:
                draft = await asyncio.to_thread(to_rle, meant.drafts[region])
                latest = await asyncio.to_thread(to_rle, mask)
                self._latest_masks.remember(task.id, region, draft, latest)
        prediction: Prediction = {"result": edited.items + answer_item(config, edited.sentence)}
        return prediction | ({"model_version": edited.version} if edited.version else {})

    async def _is_for_the_model(self, edit: Edit, meant: Meant) -> bool:
        """Whether the model answers an edit itself: a new thing, or a choice if it was trained on turns."""
        if meant.pointed or not (edit.kind == "add" or chooses(edit, meant)):
            return False
        return edit.kind == "add" or await self._model.follows_up(self._settings.predict_wait_s)

    async def _batch(
        self, request: PredictRequest, config: LabelConfig
    ) -> list[Prediction | list[Prediction]]:
        predictions: list[Prediction | list[Prediction]] = [NO_PREDICTION] * len(request.tasks)
        jobs = self._batch_jobs(request.tasks, config, request.project)
        if not jobs:
            return predictions
        until = time.time() + WAITING_TTL_S
        pending = {
            index: PendingPrediction(
                task=request.tasks[index].id,
                job=job,
                label_config=request.label_config,
                data=config.task_fields(request.tasks[index].data),
                until=until,
            )
            for index, job in jobs.items()
        }
        try:
            await self._late.keep(list(pending.values()))
            owed = await self._collect(pending, predictions)
        except BaseException:
            await self._late.give_up(pending.values())
            raise
        self._late.follow([pending[index] for index in owed])
        await self._late.forget(one for index, one in pending.items() if index not in owed)
        return predictions

    async def _collect(
        self, pending: dict[int, PendingPrediction], predictions: list[Prediction | list[Prediction]]
    ) -> set[int]:
        """Fill in the predictions that are ready in time; return the positions of the others to come."""
        wait_s = 0.0 if len(predictions) == 1 else self._settings.batch_wait_s
        deadline = time.monotonic() + wait_s
        try:
            jobs = await self._model.submit([one.job for one in pending.values()], wait_s)
        except NotReady as error:
            log.info("%d tasks wait: %s", len(pending), error)
            return set(pending)
        owed = set()
        for (index, one), job in zip(pending.items(), jobs, strict=True):
            try:
                result = await self._model.collect(job, max(0.0, deadline - time.monotonic()))
            except JobFailed as error:
                log.warning("project %s, task %d gets no prediction: %s", job.project, one.task, error)
            except NotReady:
                owed.add(index)
            else:
                if self._late.claim(one):
                    predictions[index] = await self._build(job, result, one.config)
        return owed

    def _batch_jobs(
        self, tasks: Sequence[Task], config: LabelConfig, project: str | None
    ) -> dict[int, SegmentJob]:
        """Make the jobs of a batch by position; an opened task without a prompt is only warmed."""
        jobs = {}
        may_be_opened = len(tasks) == 1 and config.prompt is not None
        for index, task in enumerate(tasks):
            of_task = config.for_task(task.data)
            try:
                if may_be_opened and not own_prompt(task, of_task):
                    self._warmer.start(warm_job(task, of_task, project))
                else:
                    jobs[index] = segment_job(task, batch_prompt(task, of_task), of_task, project, "batch")
            except BadTask as error:
                log.warning("project %s, task %d gets no prediction: %s", project, task.id, error)
        return jobs

    async def _build(
        self, job: SegmentJob, result: SegmentResult, config: LabelConfig, opened: Task | None = None
    ) -> Prediction:
        """Make the prediction of an answer; without what is marked already in the task that is `opened`."""
        result = await asyncio.to_thread(without_speckles, result, self._settings.min_region_share)
        min_score = self._settings.model_score_threshold
        marked = await asyncio.to_thread(marked_targets, result, opened, config) if opened else frozenset()
        # Only a task's first image is learned from, and only from what was proposed.
        if not config.item_index and not (marked and len(marked) == len(result.targets)):
            self._proposals.record(job, result, hidden_targets(result, config, min_score))
        if job.priority == "batch" and job.project is not None:
            self._shown_version.update(job.project, result.model_version)
        return await asyncio.to_thread(build_prediction, result, config, job.prompt, min_score, marked)

    async def _with_history(self, job: SegmentJob, task: Task) -> SegmentJob:
        """Add the earlier turns if the prompt refers back to them and the model was trained on turns.

        Raises:
            BadTask: The prompt means nothing without what came before, and the model reads no turns.
        """
        reference = follow_up(job.prompt)
        means_nothing = needs_masks(job.prompt)
        if not means_nothing and not (reference.refers_back and earlier_prompts(task)):
            return job
        if await self._model.follows_up(self._settings.predict_wait_s):
            return job.model_copy(update={"history": await self._history(task, job.prompt)})
        if means_nothing or reference.standalone is None:
            raise BadTask(NAME_IN_FULL)
        return job.model_copy(update={"prompt": reference.standalone})

    async def _history(self, task: Task, prompt: str) -> tuple[Turn, ...]:
        """Return the earlier prompts behind the masks in the draft with their answers, oldest first.

        A mask holds the id of its job, and the queue keeps results for a while; what has expired is left out.
        Submitted annotations are not used: Label Studio sends those of all annotators.
        """
        turns = []
        for job_id, earlier in earlier_prompts(task).items():
            if earlier != prompt:
                state = await asyncio.to_thread(self._queue.state, job_id)
                if state.result is not None:
                    turns.append(Turn(prompt=earlier, answer=state.result.answer))
        return tuple(turns[-self._settings.history_turns :]) if self._settings.history_turns else ()
