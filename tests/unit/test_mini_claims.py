"""What the recipe has a model with a pyramid answer: every name that is asked for, there or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pixellm_model.samples import PLACEHOLDER
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.things import Thing
from recipes.pixellm_mini.cached import Claimer

NOUNS = Nouns(Path(__file__).parents[2] / "recipes" / "pixellm_mini" / "vocabulary.json")


def asker(seed: int) -> Claimer:
    masks = [np.zeros((20, 30), bool) for _ in range(2)]
    masks[0][:10, :10] = masks[1][10:, 20:] = True
    things = [Thing("cup", mask) for mask in masks]
    return Claimer(NOUNS, ["fork", "dog", "chair"], things, np.random.default_rng(seed))


def test_missing_names_are_claimed_in_the_order_of_the_question() -> None:
    orders = set()
    for seed in range(30):
        question = asker(seed).mixed()
        assert question is not None and "no " not in question.answer
        assert question.answer.count(PLACEHOLDER) == len(question.masks) == len(question.phrases)
        empty = [not mask.any() for mask in question.masks]
        assert empty.count(False) == 1, "both cups are one target"
        places = [question.text.lower().index(phrase) for phrase in question.phrases]
        assert places == sorted(places)
        orders.add(empty[0])
    assert orders == {True, False}


def test_a_missing_name_alone_is_a_target_with_an_empty_mask() -> None:
    question = asker(0).absent()
    assert question is not None and not any(mask.any() for mask in question.masks)
    assert question.answer.endswith(f"is {PLACEHOLDER}.")


def test_all_things_of_a_name_are_one_target() -> None:
    question = asker(0).single_name()
    assert question is not None and [int(mask.sum()) for mask in question.masks] == [200]
    assert question.answer.count(PLACEHOLDER) == 1
