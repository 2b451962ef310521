"""A model whose masks may be empty does not claim what it did not draw."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pixellm_model.engine.absence import deny_undrawn, deny_what_was_asked
from pixellm_model.engine.segmenter import Segmenter


@pytest.mark.parametrize(
    ("texts", "phrases", "drawn", "said"),
    [
        (["dog is", "."], ["dog"], [False], "There is no dog in this image."),
        (["Sure, it is", "."], ["red cup"], [False], "There is no red cup in this image."),
        (
            ["a is", ", b is", "and c is", "."],
            ["a", "b", "c"],
            [0, 1, 0],
            "b is [1]. There is no a and no c in this image.",
        ),
        (["dog is", "and dog is", "."], ["dog", "dog"], [False, True], "dog is [1]."),
        (
            ["cup is", ". There is no fork in this image."],
            ["cup"],
            [False],
            "There is no cup in this image. There is no fork in this image.",
        ),
    ],
)
def test_what_was_not_drawn_is_denied(
    texts: list[str], phrases: list[str], drawn: list[bool], said: str
) -> None:
    assert deny_undrawn(texts, phrases, drawn) == said


@pytest.mark.parametrize(
    ("answer", "prompt", "said"),
    [
        ("There is no teapot in this image.", "the red book", 'Nothing was found for "the red book".'),
        ("There is no thing to cup in this image.", "the left cup", 'Nothing was found for "the left cup".'),
        ("There is no cup on the left in this image.", "the left cup", None),
        ("There is no train and no apple in this image.", "apple", "There is no apple in this image."),
        ("There is no knife, no bus and no cup in this image.", "knives, buses and cups", None),
        ("There are no dogs.", "the dog", None),
        (
            "cup is [1]. There is no fork in this image.",
            "the cup",
            'cup is [1]. Nothing more was found for "the cup".',
        ),
        ("cup is [1]. There is no fork in this image.", "the cup and a fork", None),
        ("no entry sign is [1].", "the sign", None),
    ],
)
def test_only_what_was_asked_for_is_denied(answer: str, prompt: str, said: str | None) -> None:
    words = prompt.replace(",", "").split()
    assert deny_what_was_asked(answer, "[1]" in answer, prompt, words) == (said or answer)


def test_a_long_prompt_is_quoted_in_part_and_its_quotes_are_no_end() -> None:
    said = deny_what_was_asked("There is no pot in this image.", False, 'the "' + "very " * 30 + 'cup"', [])
    assert said.startswith("Nothing was found for \"the 'very") and said.endswith('...".') and len(said) < 100


def test_the_shipped_model_denies_nothing_that_nobody_asked_for() -> None:
    table = Image.open(Path(__file__).parents[2] / "demo" / "samples" / "scene_table.jpg")
    segmenter = Segmenter.from_pretrained()
    for prompt in ("the red book on the table", "the left cup", "\U0001f34e apple"):
        answer = segmenter.segment(table, prompt).answer
        denied = answer.partition("There is no ")[2].removesuffix(" in this image.").split()
        assert set(denied) <= {"on", "the", *prompt.split()}, answer
    nothing = segmenter.segment(table, "...")
    assert nothing.targets == () and nothing.unknown and "Type what to segment" in nothing.warnings[0]
