"""Prompts in the words of a small model: capitals, typos, names it was never taught."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pixellm_model.engine.wording import WORDS_FILE, Vocabulary, Wording
from pixellm_model.errors import CheckpointError
from pixellm_model.request import Request

WORDS = Vocabulary(
    ["apple", "apples", "bottle", "book", "cup", "dog", "dogs", "racket", "fire hydrant", "T-shirt"],
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
    [
        ("aple", "apple"),
        ("appple", "apple"),
        ("appel", "apple"),
        ("bottke", "bottle"),
        ("dgo", "dog"),
        ("bok", "book"),
    ],
)
def test_one_typo_is_corrected_and_reported(typed: str, meant: str) -> None:
    assert WORDS.reword(f"the {typed}") == Wording(f"the {meant}", (), ((typed, meant),))


@pytest.mark.parametrize(
    ("typed", "read"),
    [("teh cup adn hte dog", "the cup and the dog"), ("olny teh letf dog", "only the left dog")],
)
def test_swapped_letters_of_other_words_are_put_right_silently(typed: str, read: str) -> None:
    assert WORDS.reword(typed) == Wording(read)


def test_a_double_letter_typed_once_is_put_right_if_only_one_name_fits() -> None:
    words = Vocabulary(["boot", "bott"], ["the", "act"])
    assert words.reword("the bot") == Wording("", ("bot",))


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


def test_many_unknown_names_make_a_short_note() -> None:
    names = ["rocket", "Rocket", "sky", "sea", "sun", "moon", "sand", "b" * 200]
    wording = WORDS.reword(f"the cup, {', '.join(names)}")
    assert wording.unknown == tuple(names) and wording.prompt == "the cup"
    assert wording.notes == ('This model does not know "rocket", "sky", "sea", "sun", "moon" and 2 more.',)
    long = WORDS.reword("b" * 200).notes[0]
    assert len(long) < 80


def test_many_corrected_words_make_a_short_note() -> None:
    typed = ["aple", "appel", "bottke", "dgo", "bok", "cupp", "rackett"]
    notes = WORDS.reword(", ".join([*typed, *typed])).notes
    assert len(notes) == 6 and notes[-1] == "2 more words were corrected."


@pytest.mark.parametrize("prompt", [".", "\U0001f34e", "<b></b>", "?!", "3", "(*)"])
def test_without_a_word_it_is_said_what_to_type(prompt: str) -> None:
    wording = WORDS.reword(prompt, report_unknown=False)
    assert wording.questions == () and wording.unknown
    assert wording.notes == ('Type what to segment, for example "the cup".',)


def test_symbols_are_dropped() -> None:
    assert WORDS.reword("<img src=x> the RED\u2122 cup \U0001f34e!").prompt == "the red cup !"
    assert WORDS.reword("") == Wording("")


def test_the_whole_prompt_goes_along_with_each_question() -> None:
    words = Vocabulary(["cup", "cups", "dog"], ["the", "all"], "segment {}", one_by_one=True)
    request = Request(Image.new("RGB", (2, 2)), "all teh cups and the dgo")
    questions = words.reword(request.prompt).questions_of(request)
    assert [each.prompt for each in questions] == ["segment the cups", "segment the dog"]
    assert {each.asked for each in questions} == {"all the cups and the dog"}
    assert [each.asked for each in Wording("the cup").questions_of(request)] == [request.prompt]


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


def test_a_part_of_a_known_thing_is_named_as_typed() -> None:
    assert WORDS.reword("the dog's ear") == Wording("", ("dog's ear",))


BEST = Vocabulary(
    ["apple", "cup", "cups", "dog", "fire hydrant"],
    ["Segment the {x}.", "segment", "red", "all", "on left only one also and", "a", "where is"],
    "Segment {}.",
)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("cup", "Segment the cup."),
        ("Cup", "Segment the cup."),
        ("the cup", "Segment the cup."),
        ("THE CUP!", "Segment the cup."),
        ("a cup.", "Segment the cup."),
        ("Segment the cup.", "Segment the cup."),
        ("Can you find the cup in this image?", "Segment the cup."),
        ("where is the dog", "Segment the dog."),
        ("cups", "Segment the cups."),
        ("fire hydrant", "Segment the fire hydrant."),
        ("the cup and the dog", "Segment the cup and the dog."),
        ("Cup, dog, and apple", "Segment the cup, the dog and the apple."),
        ("the cup and the rocket", "Segment the cup."),
        ("all the cups", "Segment the cups."),
        ("Find every cup and the dog", "Segment the cup and the dog."),
        ("\U0001f34e apple", "Segment the apple."),
        ("<b>cup</b> ***", "Segment the cup."),
        ('"cup", #dog', "Segment the cup and the dog."),
    ],
)
def test_the_same_names_are_always_asked_for_in_the_same_wording(typed: str, read: str) -> None:
    assert BEST.reword(typed).prompt == read


@pytest.mark.parametrize(
    "prompt",
    [
        "cup & dog",
        "Segment the red cup.",
        "the red cup",
        "the cup on the left",
        "all red cups",
        "only the left one",
        "also the cup",
        "segment",
        "the",
    ],
)
def test_what_says_more_than_names_stays_as_typed(prompt: str) -> None:
    assert BEST.reword(prompt).prompt == prompt


def test_several_names_are_asked_for_one_by_one_where_that_is_better() -> None:
    words = Vocabulary(["cup", "dog"], ["the", "red", "segment"], "segment {}", one_by_one=True)
    assert words.reword("the cup and a dog").questions == ("segment the cup", "segment the dog")
    assert words.reword("the cup and the rocket").questions == ("segment the cup",)
    assert words.reword("the red cup and the dog").questions == ("the red cup and the dog",)
    assert words.reword("the rocket").questions == ()
    assert len(words.reword(", ".join(["cup"] * 17)).questions) == 1


def test_a_model_that_learned_more_names_is_asked_for_them_in_its_best_wording() -> None:
    assert BEST.reword("the rocket", report_unknown=False).prompt == "Segment the rocket."


@pytest.mark.parametrize("wording", ["Segment it.", "{} and {}"])
def test_a_wording_needs_one_place_for_the_names(wording: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Vocabulary(["cup"], [], wording)


def test_a_folder_without_words_takes_any(tmp_path: Path) -> None:
    assert Vocabulary.from_folder(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"names": 1, "others": []}', '{"names": [], "others": [], "prompt": "Segment it."}'],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / WORDS_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=WORDS_FILE):
        Vocabulary.from_folder(tmp_path)
