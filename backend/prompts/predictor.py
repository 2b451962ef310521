"""Label Studio's predictions: what a task asks, and the answer in Label Studio's words.

An interactive request carries a context (Label Studio sends `context.result`, empty after a submit); its
answer is waited for. A request without context is a batch. Label Studio also sends one while somebody opens
a task, and the page waits for the answer; with a single task the two look the same. So a single task is never
waited for: it gets what is known, and the rest is sent on later. Where people type prompts, a single task
without a prompt of its own asks for no masks at all: they would be in the way of those who open it. A worker
is told of its image, so that it has looked at it by the time a prompt is typed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, TypeGuard
from uuid import uuid4

from pydantic import BaseModel, Field, ValidationError

from backend.prompts.late_predictions import LatePredictions, Pending, Prediction
from backend.prompts.model_client import Asking, Failed, Unanswered
from backend.prompts.prefetcher import Warming
from backend.prompts.proposal_log import Ledger
from backend.prompts.regions import answer_item, answer_text, build_results
from backend.settings import BackendSettings
from label_config import ConfigError, LabelConfig, read_config
from worker.jobs.contract import MAX_PROMPT_CHARS, Priority, SegmentJob, SegmentResult, Turn, WarmJob
from worker.jobs.queue import QueueUnavailable, SegmentQueue
from worker.store import Database
from worker.store.registry import Registry

log = logging.getLogger(__name__)

MAX_TASKS = 10_000
JOB_ID = re.compile(r"seg-[0-9a-f]{32}")
# Without it no prediction is stored: Label Studio takes a list of predictions for each task.
NOTHING_YET: list[Prediction] = []
# What the editor is given when nothing was asked: an empty list would be an error to it.
NOTHING_ASKED: Prediction = {"result": []}


class Task(BaseModel):
    """What is read of a Label Studio task; `drafts` are those of the asking annotator."""

    id: int
    data: dict[str, Any]
    drafts: list[dict[str, Any]] = []


class Context(BaseModel):
    result: list[dict[str, Any]] = []


class Params(BaseModel):
    context: Context | None = None


class PredictRequest(BaseModel):
    """The body of /predict; what Label Studio sends beside these fields is ignored."""

    tasks: list[Task] = Field(max_length=MAX_TASKS)
    label_config: str
    project: str | None = None
    params: Params | None = None

    @property
    def context(self) -> Context | None:
        return self.params.context if self.params else None


class Refused(Exception):
    """The request cannot be answered; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BadTask(ValueError):
    """A task or its prompt cannot be used; the message names the mend."""


class Predictor:
    """Answers requests. Belongs to one event loop, where it also follows what is late."""

    def __init__(self, settings: BackendSettings, queue: SegmentQueue, database: Database) -> None:
        self._settings = settings
        self._queue = queue
        self._registry = Registry(settings)
        self._asking = Asking(queue, self._registry)
        self._ledger = Ledger(database)
        self._late = LatePredictions(settings, self._asking)
        self._warming = Warming(self._asking)

    async def predict(self, request: PredictRequest) -> list[Prediction | list[Prediction]]:
        """One entry per task, in order. Raises Refused."""
        if request.context is not None and len(request.tasks) != 1:
            raise Refused("A prompt is about one task; send exactly one with a context.", 400)
        try:
            config = read_config(request.label_config)
        except ConfigError as error:
            log.warning("project %s: %s", request.project, error)
            if request.context is not None and (item := _last_resort(request.label_config, str(error))):
                return [{"result": [item]}]
            raise Refused(str(error), 400) from error
        if request.context is not None:
            return [await self._interactive(request.tasks[0], request.context, config, request.project)]
        try:
            return await self._batch(request.tasks, config, request.project)
        except QueueUnavailable as error:
            raise Refused(str(error), 503) from error

    async def prelabel(self, task: Task, config: LabelConfig, project: str, wait_s: float) -> Prediction:
        """The answer to a task's own prompt, or to one for every label, at batch priority. Raises BadTask,
        Unanswered, QueueUnavailable."""
        job = _job(task, _task_prompt(task, config), config, project, "batch")
        return await self._prediction(job, await self._asking.ask(job, wait_s), config)

    async def version(self, project: str | None = None) -> str | None:
        """The version that answers a project, None when none is ready. Raises QueueUnavailable."""
        base = next((worker.model_version for worker in await self._asking.workers()), None)
        return base and self._registry.serving(project_id(project), base)

    async def versions(self) -> list[str]:
        """The base that is served and its versions, newest first. Raises QueueUnavailable."""
        base = next((worker.model_version for worker in await self._asking.workers()), None)
        return [base, *self._registry.names(base)] if base else []

    async def aclose(self) -> None:
        await self._late.aclose()
        await self._warming.aclose()
        await self._ledger.aclose()
        await self._queue.aclose()

    async def _interactive(
        self, task: Task, context: Context, config: LabelConfig, project: str | None
    ) -> Prediction:
        prompt = newest_text(context.result, config.prompt)
        if not prompt:
            return NOTHING_ASKED
        try:
            job = _job(task, prompt, config, project, "interactive")
            job = job.model_copy(update={"history": await self._history(task, prompt)})
            result = await self._asking.ask(job, self._settings.predict_wait_s)
            return await self._prediction(job, result, config)
        except (BadTask, Unanswered, QueueUnavailable) as error:
            log.info("project %s, task %d: %s", project, task.id, error)
            if config.answer is None:
                raise Refused(str(error), 400 if isinstance(error, BadTask) else 503) from error
            return {"result": answer_item(config, str(error))}

    async def _batch(
        self, tasks: Sequence[Task], config: LabelConfig, project: str | None
    ) -> list[Prediction | list[Prediction]]:
        wait_s = 0.0 if len(tasks) == 1 else self._settings.batch_wait_s
        deadline = time.monotonic() + wait_s
        jobs: dict[int, SegmentJob] = {}
        opened = len(tasks) == 1 and config.prompt is not None
        for place, task in enumerate(tasks):
            try:
                if opened and not _own_prompt(task, config):
                    self._warming.begin(_warm_job(task, config, project))
                    continue
                jobs[place] = _job(task, _task_prompt(task, config), config, project, "batch")
            except BadTask as error:
                log.warning("project %s, task %d gets no prediction: %s", project, task.id, error)
        answers: list[Prediction | list[Prediction]] = [NOTHING_YET] * len(tasks)
        if not jobs:
            return answers
        try:
            jobs = dict(zip(jobs, await self._asking.submit(list(jobs.values()), wait_s), strict=True))
        except Unanswered as error:
            log.info("project %s: %d tasks wait: %s", project, len(jobs), error)
            self._late.follow([self._pending(tasks[place], job, config) for place, job in jobs.items()])
            return answers
        unfinished = []
        for place, job in jobs.items():
            pending = self._pending(tasks[place], job, config)
            try:
                result = await self._asking.collect(job, max(0.0, deadline - time.monotonic()))
            except Failed as error:
                log.warning("project %s, task %d gets no prediction: %s", project, tasks[place].id, error)
            except Unanswered:
                unfinished.append(pending)
            else:
                if self._late.settle(pending):
                    answers[place] = await pending.finish(result)
        self._late.follow(unfinished)
        return answers

    def _pending(self, task: Task, job: SegmentJob, config: LabelConfig) -> Pending:
        return Pending(task.id, job, lambda result: self._prediction(job, result, config))

    async def _prediction(self, job: SegmentJob, result: SegmentResult, config: LabelConfig) -> Prediction:
        self._ledger.note(job, result)
        return await asyncio.to_thread(
            prediction, result, config, job.prompt, self._settings.model_score_threshold
        )

    async def _history(self, task: Task, prompt: str) -> tuple[Turn, ...]:
        """The turns behind the masks in the annotator's draft, oldest first.

        Masks remember which job made them, and the queue keeps the answers for a while; what it has forgotten
        is left out. Annotations are left out too: Label Studio sends everybody's.
        """
        turns = []
        for job_id, earlier in _earlier(task):
            if earlier != prompt:
                state = await asyncio.to_thread(self._queue.state, job_id)
                if state.result is not None:
                    turns.append(Turn(prompt=earlier, answer=state.result.answer))
        return tuple(turns[-self._settings.history_turns :]) if self._settings.history_turns else ()


def prediction(result: SegmentResult, config: LabelConfig, prompt: str, min_score: float = 0.0) -> Prediction:
    """A Label Studio prediction: regions, the model's sentence, the mean score of the regions shown."""
    regions = build_results(result, config, prompt, min_score)
    scores = [region["score"] for region in regions]
    return {
        "result": regions + answer_item(config, answer_text(result, config, min_score)),
        "score": fmean(scores) if scores else 0.0,
        "model_version": result.model_version,
    }


def newest_text(items: Sequence[dict[str, Any]], control: str | None) -> str:
    """The last text in the text area named `control`, without space around it; empty when there is none."""
    texts = [
        text
        for item in items
        if control is not None and item.get("from_name") == control
        for text in _texts(item.get("value"))
    ]
    return texts[-1] if texts else ""


def _texts(value: object) -> Iterator[str]:
    text = value.get("text") if isinstance(value, dict) else None
    for line in text if isinstance(text, list) else [text]:
        if isinstance(line, str) and line.strip():
            yield line.strip()


def _job(task: Task, prompt: str, config: LabelConfig, project: str | None, priority: Priority) -> SegmentJob:
    if len(prompt) > MAX_PROMPT_CHARS:
        raise BadTask(
            f"The prompt has {len(prompt)} characters; shorten it to {MAX_PROMPT_CHARS} at the most."
        )
    try:
        return SegmentJob(prompt=prompt, priority=priority, **_about(task, config, project))
    except ValidationError as error:
        raise BadTask("The prompt or the image's address has broken characters; type it anew.") from error


def _warm_job(task: Task, config: LabelConfig, project: str | None) -> WarmJob:
    try:
        return WarmJob(**_about(task, config, project))
    except ValidationError as error:
        raise BadTask("The image's address has broken characters.") from error


def _about(task: Task, config: LabelConfig, project: str | None) -> dict[str, Any]:
    """What every job says: the image, and which task of which project it belongs to."""
    image = task.data.get(config.image.key)
    if not isinstance(image, str) or not image.strip():
        raise BadTask(f'This task has no image: its data has no address under "{config.image.key}".')
    return {"image": image, "task": str(task.id), "project": project_id(project)}


def project_id(project: str | None) -> str | None:
    """Label Studio's "12.1795392173" is the project and the second it was created."""
    return project.partition(".")[0] if project else None


def _task_prompt(task: Task, config: LabelConfig) -> str:
    """The task's own prompt, else one that asks for every label."""
    if own := _own_prompt(task, config):
        return own
    *most, last = [f"the {label.value.lower()}" for label in config.labels]
    labels = f"{', '.join(most)} and {last}" if most else last
    return f"Segment {labels} in this image."


def _own_prompt(task: Task, config: LabelConfig) -> str:
    own = task.data.get(config.task_prompt_key)
    return own.strip() if isinstance(own, str) else ""


def _earlier(task: Task) -> list[tuple[str, str]]:
    """Job id and prompt of each turn whose masks are in the drafts, in order of first appearance."""
    found: dict[str, str] = {}
    for draft in task.drafts:
        for region in draft.get("result") or []:
            meta = region.get("meta") if isinstance(region, dict) else None
            origin = meta.get("pixellm") if isinstance(meta, dict) else None
            if not isinstance(origin, dict):
                continue
            job_id, prompt = origin.get("job"), origin.get("prompt")
            # Drafts come from a browser: what is no turn of ours is passed over.
            if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) and _is_prompt(prompt):
                found.setdefault(job_id, prompt)
    return list(found.items())


def _is_prompt(value: object) -> TypeGuard[str]:
    try:
        Turn.model_validate({"prompt": value, "answer": ""})
    except ValidationError:
        return False
    return True


def _last_resort(xml: str, sentence: str) -> dict[str, Any] | None:
    """`sentence` for the text area named answer of a config that cannot be read otherwise, if it has one."""
    for tag in re.findall(r"<TextArea\b[^<>]*>", xml, re.IGNORECASE):
        named = dict(re.findall(r"""(\w+)\s*=\s*["']([^"']*)["']""", tag.lower()))
        if named.get("name") == "answer" and "toname" in named:
            return {
                "id": uuid4().hex[:10],
                "from_name": "answer",
                "to_name": named["toname"],
                "type": "textarea",
                "value": {"text": [sentence]},
            }
    return None
