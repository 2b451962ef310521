"""What is asked about each task: a prompt, every label, or the prompts of an ontology file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.prompts.request import Task
from backend.prompts.tasks import batch_prompt
from label_config import LabelConfig
from worker.jobs.contract import MAX_PROMPT_CHARS

# Prompts, each with the label that its masks get; None: the label that a mask's phrase names.
Questions = Mapping[str, str | None]
# It raises BadTask where a task's data lacks the labels to ask for.
QuestionsOf = Callable[[Task], Questions]


class BadQuestions(ValueError):
    """A prompt or an ontology file cannot be used; the message says what to change."""


def about_every_label(config: LabelConfig) -> QuestionsOf:
    """Ask a task's own prompt, or one that names every label, as batches do."""
    return lambda task: {batch_prompt(task, config.for_task(task.data)): None}


def one_prompt(prompt: str) -> QuestionsOf:
    """Ask the same prompt about every task.

    Raises:
        BadQuestions: The prompt is empty or too long.
    """
    questions = {_checked(prompt, "The prompt (--prompt)"): None}
    return lambda task: questions


def from_ontology(path: Path, config: LabelConfig) -> QuestionsOf:
    """Ask every prompt of an ontology, a JSON file `{"prompt": "Label", ...}`.

    Args:
        path: The file.
        config: The project's labeling configuration; labels may be given by an alias.

    Raises:
        BadQuestions: The file cannot be read, is not such JSON, or names labels that the project lacks.
    """
    labels = {alias: label.value for label in config.labels for alias in label.aliases}
    labels |= {label.value: label.value for label in config.labels}
    questions: dict[str, str | None] = {}
    missing: list[str] = []
    for prompt, label in _read(path):
        text = _checked(prompt, f'The prompt "{prompt[:40]}" in {path}')
        if not isinstance(label, str):
            raise BadQuestions(f'"{text}" in {path} needs a label in quotes, not {json.dumps(label)[:40]}.')
        if text in questions:
            raise BadQuestions(f'"{text}" is more than once in {path}; keep one of them.')
        if label.strip() not in labels:
            missing.append(f'"{label}"')
        questions[text] = labels.get(label.strip())
    if missing:
        available = ", ".join(f'"{label.value}"' for label in config.labels)
        raise BadQuestions(
            f"The project has no label {', '.join(dict.fromkeys(missing))} ({path}); "
            f"its labels are {available}."
        )
    if not questions:
        raise BadQuestions(f'{path} has no prompts; write {{"the red cups": "Cup"}} for example.')
    return lambda task: questions


def _read(path: Path) -> Sequence[tuple[str, Any]]:
    """Return prompts and labels in order; a plain dict would hide a prompt that is there twice."""
    try:
        pairs = json.loads(path.read_text("utf-8"), object_pairs_hook=_Pairs)
    except OSError as error:
        raise BadQuestions(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise BadQuestions(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(pairs, _Pairs):
        raise BadQuestions(f'{path} must be a JSON object such as {{"the red cups": "Cup"}}.')
    return pairs


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object."""


def _checked(prompt: str, name: str) -> str:
    text = prompt.strip()
    if not text:
        raise BadQuestions(f"{name} is empty.")
    if len(text) > MAX_PROMPT_CHARS:
        raise BadQuestions(
            f"{name} has {len(text)} characters; shorten it to {MAX_PROMPT_CHARS} at the most."
        )
    return text
