"""The prompt "everything": which words mean it, what is asked, and the one answer."""

from __future__ import annotations

import numpy as np
import pytest

from backend.prompts.everything import as_one, asks_for_everything, labels_questions
from backend.prompts.regions import build_prediction
from backend.prompts.tasks import BadTask
from label_config import LabelConfig, read_config
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import to_rle


def config(*labels: str) -> LabelConfig:
    tags = "".join(f'<Label value="{label}"/>' for label in labels)
    return read_config(
        '<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" smart="true"/>'
        '<TextArea name="answer" toName="image"/>'
        f'<BrushLabels name="mask" toName="image">{tags}</BrushLabels></View>'
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "everything",
        "Segment everything.",
        "all objects",
        "every thing in this image",
        "mark all the objects please",
        "everything except the cup",
        "Everything but the book, please.",
        "all objects apart from the cup and the dog",
        "segment everything in this image, except for the cup",
    ],
)
def test_it_asks_for_everything(prompt: str) -> None:
    assert asks_for_everything(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "everything red",
        "all the dogs",
        "all dogs and objects",
        "the thing",
        "everything else",
        "",
        "all dogs but one",
    ],
)
def test_what_names_something_is_not_everything(prompt: str) -> None:
    assert not asks_for_everything(prompt)


def test_every_label_but_other_is_asked_for() -> None:
    assert labels_questions(config("Cup", "Fire hydrant", "Other")) == [
        "Segment the cup.",
        "Segment the fire hydrant.",
    ]
    assert labels_questions(config("Other")) == []


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("everything except the cup", ["dog", "fire hydrant", "coffee cup"]),
        ("everything but the dogs and the fire hydrants.", ["cup", "coffee cup"]),
        ("All things without the coffee cup, please", ["cup", "dog", "fire hydrant"]),
        ("everything except the sky", ["cup", "dog", "fire hydrant", "coffee cup"]),
    ],
)
def test_what_is_excepted_is_not_asked_for(prompt: str, asked: list[str]) -> None:
    labels = config("Cup", "Dog", "Fire hydrant", "Coffee cup", "Other")
    assert labels_questions(labels, prompt) == [f"Segment the {name}." for name in asked]


def test_with_every_label_excepted_nothing_is_asked() -> None:
    with pytest.raises(BadTask, match="leaves no label"):
        labels_questions(config("Cup", "Other"), "everything except the cup")


def result(answer: str, *phrases: str, job: str = "1", warnings: tuple[str, ...] = ()) -> SegmentResult:
    mask = to_rle(np.ones((6, 8), bool))
    targets = tuple(TargetResult(phrase=p, score=0.5, box=(0, 0, 8, 6), mask=mask) for p in phrases)
    return SegmentResult(
        job_id=f"seg-{job * 32}",
        answer=answer,
        targets=targets,
        width=8,
        height=6,
        model_version="m",
        warnings=warnings,
    )


def said(*results: SegmentResult) -> tuple[str, int]:
    labels = config("Cup", "Dog", "Cat")
    predictions = [build_prediction(each, labels, "p") for each in results]
    items = as_one(predictions, results, labels)["result"]
    (text,) = [item["value"]["text"][0] for item in items if item["from_name"] == "answer"]
    return text, len({item["id"] for item in items if item["from_name"] == "mask"})


def test_the_answers_are_one_with_numbers_that_go_on() -> None:
    first = result("cup is [1] and cup is [2]. There is no dog in this image.", "cup", "cup")
    second = result('cat is [1]. Nothing more was found for "x.".', "cat", job="2", warnings=("a", "a"))
    assert said(first, second) == (
        "cup is [1] and cup is [2]. cat is [3]. Of the other labels nothing was found. a",
        3,
    )


def test_nothing_is_said_once() -> None:
    absent = result("There is no cup in this image."), result("There is no dog in this image.", job="2")
    assert said(*absent) == ("Nothing was found.", 0)
