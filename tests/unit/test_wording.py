"""Prompts in the words of a small model: capitals, typos, names it was never taught."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixellm_model.engine.wording import WORDS_FILE, Vocabulary, Wording
from pixellm_model.errors import CheckpointError

WORDS = Vocabulary(
    ["apple", "apples", "bottle", "cup", "dog", "dogs", "racket", "fire hydrant", "T-shirt"],
    [
        "the",
        "Segment the {x} in this image.",
        "red",
        "only left one",
        "all",
        "and",
        "Can you find",
        "is",
        "no",
    ],
)


@pytest.mark.parametrize(
    "prompt",
    ["the cup", "Segment the cup.", "Can you find the fire hydrant?", "only the left one", "all dogs"],
)
def test_a_prompt_of_known_words_stays_as_it_is(prompt: str) -> None:
    assert WORDS.reword(prompt) == Wording(prompt)


@pytest.mark.parametrize(
    ("prompt", "reworded"),
    [
        ("THE CUP", "the cup"),
        ("The Red CUP", "The red cup"),
        ("SEGMENT the T-Shirt", "segment the t-shirt"),
        ("Cup", "Cup"),
    ],
)
def test_capitals_become_what_the_model_has_read(prompt: str, reworded: str) -> None:
    assert WORDS.reword(prompt) == Wording(reworded)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("aple", "apple"), ("appple", "apple"), ("appel", "apple"), ("bottke", "bottle"), ("dgo", "dog")],
)
def test_one_typo_is_corrected_and_reported(typed: str, meant: str) -> None:
    assert WORDS.reword(f"the {typed}") == Wording(f"the {meant}", (), ((typed, meant),))


def test_the_likeliest_typo_wins() -> None:
    words = Vocabulary(["apple", "ape"], ["the"])
    assert words.reword("the aple").prompt == "the apple"


def test_a_model_that_learned_more_names_takes_any_word() -> None:
    assert WORDS.reword("THE rocket", report_unknown=False) == Wording("the rocket")


def test_people_are_told_how_a_prompt_was_read() -> None:
    assert WORDS.reword("the dgo and the rocket").notes == (
        '"dgo" was read as "dog".',
        'This model does not know "rocket".',
    )


@pytest.mark.parametrize("name", ["rocket", "cab", "dig", "pickle"])
def test_another_word_is_no_typo(name: str) -> None:
    assert WORDS.reword(f"the {name}") == Wording("", (name,))


def test_an_unknown_name_is_left_out_and_the_others_are_asked_for() -> None:
    assert WORDS.reword("the cup and the rocket") == Wording("the cup", ("rocket",))
    assert WORDS.reword("the rocket, the cup and the dog") == Wording("the cup and the dog", ("rocket",))


def test_an_unknown_word_that_describes_a_known_thing_is_kept() -> None:
    assert WORDS.reword("the shiny cup") == Wording("the shiny cup")


def test_another_language_is_unknown() -> None:
    assert WORDS.reword("la tasse") == Wording("", ("la tasse",))


def test_a_folder_without_words_takes_any(tmp_path: Path) -> None:
    assert Vocabulary.from_folder(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"names": 1, "others": []}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / WORDS_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=WORDS_FILE):
        Vocabulary.from_folder(tmp_path)
