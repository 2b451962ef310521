"""A model whose masks may be empty does not claim what it did not draw."""

from __future__ import annotations

import pytest

from pixellm_model.engine.absence import deny_undrawn


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
