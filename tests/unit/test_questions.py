"""The harder questions: number, colour, relation and further turns, each answer checked against the masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_scenes import NOUNS

from pixellm_model.engine.segmenter import MINI
from pixellm_model.samples import PLACEHOLDER, Question
from pixellm_model.synthetic.followups import add_one, drop_some, follow_up, keep_one
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import Questioner
from pixellm_model.synthetic.templates import wordings
from pixellm_model.synthetic.things import Thing
from pixellm_model.tokenizer import PromptTokenizer

HEIGHT, WIDTH = 60, 90
RED, BLUE, PALE = (220, 20, 30), (30, 40, 220), (230, 150, 150)


def box(left: int, top: int, side: int = 12) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


CUP, OTHER_CUP, BOOK = box(5, 5), box(70, 10, 18), box(40, 40)


@pytest.fixture
def nouns(tmp_path: Path) -> Nouns:
    (tmp_path / "vocabulary.json").write_text(json.dumps(NOUNS))
    return Nouns(tmp_path / "vocabulary.json")


def asker(nouns: Nouns, seed: int = 0, *painted: tuple[np.ndarray, tuple[int, int, int]]) -> Questioner:
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    for mask, colour in painted:
        image[mask] = colour
    things = [Thing("cup", CUP), Thing("cup", OTHER_CUP), Thing("book", BOOK)]
    names = [noun["name"] for noun in NOUNS]
    return Questioner(nouns, names, things, np.random.default_rng(seed), image=image)


def asked(make: Callable[[int], Question | None], count: int = 60) -> list[Question]:
    return [question for seed in range(count) if (question := make(seed)) is not None]


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one == other).all())


def test_numbers_count_all_things_of_a_name(nouns: Nouns) -> None:
    (question, *_) = asked(lambda seed: asker(nouns, seed).number())
    assert "two" in question.text.lower() and "cups" in question.text.lower() and len(question.masks) == 2


def test_colours_are_asked_only_where_they_are_plain(nouns: Nouns) -> None:
    found = asked(lambda seed: asker(nouns, seed, (CUP, RED), (OTHER_CUP, BLUE), (BOOK, BLUE)).colour())
    red = [q for q in found if "red cup" in q.text]
    assert red and all(same(q.masks[0], CUP) and len(q.masks) == 1 for q in red)
    blue = [q for q in found if "blue" in q.text and "cup" not in q.text and "book" not in q.text]
    assert blue and all(len(q.masks) == 2 for q in blue)
    assert any("no green cup" in q.answer for q in found)
    arguable = asked(lambda seed: asker(nouns, seed, (CUP, PALE), (OTHER_CUP, BLUE), (BOOK, BLUE)).colour())
    assert not any("red cup" in q.text for q in arguable)


def test_relations_are_true(nouns: Nouns) -> None:
    found = asked(lambda seed: asker(nouns, seed).relation())
    above = [q for q in found if "cup above the book" in q.answer]
    left = [q for q in found if "cup left of the book" in q.answer and q.masks]
    assert found and all(same(q.masks[0], CUP) for q in left)
    for question in above:
        assert all(mask.nonzero()[0].max() < 40 for mask in question.masks)
    assert not any("book is left of the book" in q.answer for q in found)


def first_turn() -> Question:
    answer = f"cup is {PLACEHOLDER} and cup is {PLACEHOLDER}."
    return Question("all cups", answer, (CUP, OTHER_CUP), ("cup", "cup"))


def test_only_keeps_the_one_that_is_meant(nouns: Nouns) -> None:
    for question in asked(lambda seed: keep_one(asker(nouns, seed), first_turn())):
        assert question.history == (("all cups", first_turn().answer),)
        (kept,) = question.masks
        wanted = {
            "left": CUP,
            "right": OTHER_CUP,
            "big": OTHER_CUP,
            "large": OTHER_CUP,
            "small": CUP,
            "top": CUP,
            "bottom": OTHER_CUP,
        }
        words = [word for word in wanted if word in question.text.lower()]
        assert words and same(kept, wanted[words[0]]), question.text


def test_too_adds_and_without_takes_away(nouns: Nouns) -> None:
    for question in asked(lambda seed: add_one(asker(nouns, seed), first_turn())):
        assert [same(a, b) for a, b in zip(question.masks, (CUP, OTHER_CUP), strict=False)] == [True, True]
        if len(question.masks) == 3:
            assert "book" in question.text and same(question.masks[2], BOOK)
        else:
            assert "no " in question.answer
    mixed = Question("all", "cup is {seg} and book is {seg}.", (CUP, BOOK), ("cup", "book"))
    for question in asked(lambda seed: drop_some(asker(nouns, seed), mixed)):
        (kept,) = question.masks
        assert same(kept, BOOK if "cup" in question.text else CUP)


def test_the_history_holds_the_earlier_turns_in_order(nouns: Nouns) -> None:
    def third(seed: int) -> Question | None:
        second = follow_up(asker(nouns, seed), first_turn())
        return second and follow_up(asker(nouns, seed + 1), second)

    found = asked(third)
    assert found and all(len(q.history) == 2 and q.history[0][0] == "all cups" for q in found)


def test_levels_ask_for_more(nouns: Nouns) -> None:
    easy = [q for seed in range(40) for q in asker(nouns, seed, (CUP, RED)).ask(4, 1)]
    hard = [q for seed in range(40) for q in asker(nouns, seed, (CUP, RED)).ask(4, 3)]
    assert not any(q.history for q in easy) and any(q.history for q in hard)
    assert any(" of the " in q.text or "red" in q.text for q in hard)


def test_the_mini_can_spell_every_wording() -> None:
    tokenizer = PromptTokenizer(MINI, 6, 3)
    for text in wordings():
        plain = (
            text.format(x="cup", one="cup", n="two", c="red", w="on the left", seg="")
            if "{" in text
            else text
        )
        spelt = tokenizer.decode(tokenizer.encode(plain.replace(PLACEHOLDER, ""))[1:])
        assert "".join(spelt.split()) == "".join(plain.replace(PLACEHOLDER, "").split()), text
