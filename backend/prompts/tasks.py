"""From a Label Studio task to a job: its image, its prompt, and the earlier prompts in its drafts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

from pydantic import ValidationError

from backend.prompts.request import Task
from label_config import CATCH_ALL, LabelConfig
from worker.jobs.contract import MAX_PROMPT_CHARS, Priority, SegmentJob, Turn, WarmJob

JOB_ID = re.compile(r"seg-[0-9a-f]{32}")


class BadTask(ValueError):
    """A task or its prompt cannot be used; the message says what to change."""


def segment_job(
    task: Task, prompt: str, config: LabelConfig, project: str | None, priority: Priority
) -> SegmentJob:
    """Make the job that asks `prompt` about the task's image.

    Args:
        task: The task.
        prompt: What to segment.
        config: The project's labeling configuration.
        project: The project as Label Studio sends it; None if it sends none.
        priority: Whether somebody waits for the answer ("interactive") or not ("batch").

    Returns:
        The job, without a history and without a model version.

    Raises:
        BadTask: The task has no image, or the prompt is too long or has broken characters.
    """
    if len(prompt) > MAX_PROMPT_CHARS:
        raise BadTask(
            f"The prompt has {len(prompt)} characters; shorten it to {MAX_PROMPT_CHARS} at the most."
        )
    try:
        return SegmentJob(prompt=prompt, priority=priority, **_common_fields(task, config, project))
    except ValidationError as error:
        raise BadTask("The prompt or the image's address has broken characters; type it anew.") from error


def warm_job(task: Task, config: LabelConfig, project: str | None) -> WarmJob:
    """Make the job that encodes the task's image ahead of a prompt.

    Raises:
        BadTask: The task has no image, or its address has broken characters.
    """
    try:
        return WarmJob(**_common_fields(task, config, project))
    except ValidationError as error:
        raise BadTask("The image's address has broken characters.") from error


def project_id(project: str | None) -> str | None:
    """Return the project's number; Label Studio sends "12.1795392173", with the second of its creation."""
    return project.partition(".")[0] if project else None


def newest_text(items: Sequence[dict[str, Any]], control: str | None) -> str:
    """Return the last text in a text area.

    Args:
        items: The results on the screen.
        control: The text area's name; None if the configuration has none.

    Returns:
        The text without white space around it; empty if there is none.
    """
    texts = [
        text
        for item in items
        if control is not None and item.get("from_name") == control
        for text in _texts(item.get("value"))
    ]
    return texts[-1] if texts else ""


def newest_item_index(items: Sequence[dict[str, Any]], control: str | None) -> int:
    """Return which of the task's images the last text in a text area is about; 0 if it does not say.

    Args:
        items: The results on the screen.
        control: The text area's name; None if the configuration has none.
    """
    indices = [
        item.get("item_index")
        for item in items
        if control is not None and item.get("from_name") == control and any(_texts(item.get("value")))
    ]
    return indices[-1] if indices and isinstance(indices[-1], int) else 0


def own_prompt(task: Task, config: LabelConfig) -> str:
    """Return the prompt in the task's data; empty if there is none."""
    prompt = task.data.get(config.task_prompt_key)
    return prompt.strip() if isinstance(prompt, str) else ""


def batch_prompt(task: Task, config: LabelConfig) -> str:
    """Return the task's own prompt, else one that asks for every label.

    Raises:
        BadTask: It has no prompt, and its data lacks the labels that the configuration takes from there.
    """
    if prompt := own_prompt(task, config):
        return prompt
    if not config.labels:
        raise BadTask("This task has no prompt, and its data has no labels to ask for.")
    names = [label.value.lower() for label in config.labels]
    # "Other" names nothing that a model could look for.
    *most, last = [f"the {name}" for name in names if name not in CATCH_ALL] or [
        f"the {name}" for name in names
    ]
    labels = f"{', '.join(most)} and {last}" if most else last
    return f"Segment {labels} in this image."


def earlier_prompts(task: Task) -> dict[str, str]:
    """Return job id and prompt of every mask in the drafts, in order of first appearance."""
    prompts: dict[str, str] = {}
    for draft in task.drafts:
        for region in draft.get("result") or []:
            meta = region.get("meta") if isinstance(region, dict) else None
            origin = meta.get("pixellm") if isinstance(meta, dict) else None
            if not isinstance(origin, dict):
                continue
            job_id, prompt = origin.get("job"), origin.get("prompt")
            # Drafts come from a browser; ignore what this backend did not write.
            if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) and _is_prompt(prompt):
                prompts.setdefault(job_id, prompt)
    return prompts


def _common_fields(task: Task, config: LabelConfig, project: str | None) -> dict[str, Any]:
    image = config.image_of(task.data)
    if not isinstance(image, str) or not image.strip():
        raise BadTask(f'This task has no image: its data has no address under "{config.image.key}".')
    return {"image": image, "task": str(task.id), "project": project_id(project)}


def _texts(value: object) -> Iterator[str]:
    text = value.get("text") if isinstance(value, dict) else None
    for line in text if isinstance(text, list) else [text]:
        if isinstance(line, str) and line.strip():
            yield line.strip()


def _is_prompt(value: object) -> TypeGuard[str]:
    try:
        Turn.model_validate({"prompt": value, "answer": ""})
    except ValidationError:
        return False
    return True
