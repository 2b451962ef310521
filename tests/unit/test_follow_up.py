"""Which prompts need the earlier turns, and what is left of them without."""

from __future__ import annotations

import pytest

from backend.prompts.follow_up import FollowUp, follow_up


@pytest.mark.parametrize(
    "prompt",
    [
        "the apple",
        "the book",
        "Segment the cup and the book in this image.",
        "all the dogs",
        "everything",
        "the person without a hat",
        "something you can read",
        "the red mug on the left",
        "two people and one dog",
        "the no entry sign",
        "a notebook",
        "another cup",
        "onlookers",
        "the white one-way sign",
        "Which objects could hold water?",
        "the cup, the spoon and the plate",
    ],
)
def test_it_stands_alone(prompt: str) -> None:
    assert follow_up(prompt) == FollowUp(False, prompt)


@pytest.mark.parametrize(
    ("prompt", "standalone"),
    [
        ("also the lid", "the lid"),
        ("and the dog", "the dog"),
        ("and the dog too", "the dog"),
        ("the spoon as well", "the spoon"),
        ("now the book", "the book"),
        ("Now also the book.", "the book."),
        ("what about the banana?", "the banana?"),
        ("add the saucer", "the saucer"),
        ("the cup instead", "the cup"),
    ],
)
def test_it_continues_but_names_what_it_wants(prompt: str, standalone: str) -> None:
    assert follow_up(prompt) == FollowUp(True, standalone)


@pytest.mark.parametrize(
    "prompt",
    [
        "only the left one",
        "just the biggest",
        "without the handle",
        "not the dog",
        "no, the other one",
        "the other one",
        "the other cup",
        "the ones on the right",
        "all but the cup",
        "leave out the shadow",
        "remove the strap",
        "tighter",
        "make it smaller",
        "the whole thing",
        "split it",
        "split",
        "segment them",
        "everything else",
        "the rest",
        "and the other one",
        "also",
    ],
)
def test_it_means_nothing_without_the_earlier_answer(prompt: str) -> None:
    assert follow_up(prompt) == FollowUp(True, None)
