"""What is shown of an answer: copies, limits, denials, and one mask for each thing that was asked for."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig

from pixellm_model.config import PixelLMConfig
from pixellm_model.engine.answers import Segmentation, Target
from pixellm_model.engine.phrases import asks_for_each, name_targets
from pixellm_model.engine.shown import as_one, shown_answer, usual_texts
from pixellm_model.errors import PromptError
from pixellm_model.preprocess import process_image

CELLS, SIZE = 64, 128  # along the side of the logits and of the padded square
CONFIG = PixelLMConfig(llama=LlamaConfig(), tower=None, image_size=SIZE)


def block(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Logits of a mask that consists of boxes left, top, right, bottom, in cells."""
    logits = torch.full((CELLS, CELLS), -9.0)
    for left, top, right, bottom in boxes:
        logits[top:bottom, left:right] = 9.0
    return logits


def shown(
    texts: list[str], question: str, *logits: torch.Tensor, limit: int = 50
) -> tuple[str, list[Target], tuple[str, ...]]:
    image = process_image(Image.new("RGB", (2 * SIZE, 2 * SIZE)), SIZE)
    low_res = torch.stack(logits) if logits else torch.empty(0)
    return shown_answer(texts, question, low_res, image, CONFIG, limit)


LEFT, RIGHT, NOTHING = block((4, 4, 20, 20)), block((40, 30, 60, 50)), block()


def test_an_answer_without_copies_stays_as_it_is() -> None:
    answer, targets, notes = shown(["Sure, the mug and the cat are", "and", "."], "both", LEFT, RIGHT)
    assert answer == "Sure, the mug and the cat are [1] and [2]." and notes == ()
    assert [target.phrase for target in targets] == ["mug", "cat"]
    assert targets[0].mask.shape == (2 * SIZE, 2 * SIZE)


def test_a_copy_of_a_mask_is_shown_once_and_the_numbers_follow() -> None:
    almost = block((4, 4, 20, 20), (20, 4, 21, 8))
    texts = ["dog is", ", dog is", "and cat is", ". There is no cow in this image."]
    answer, targets, notes = shown(texts, "the dogs and the cat", LEFT, almost, RIGHT)
    assert answer == "dog is [1] and cat is [2]. There is no cow in this image." and notes == ()
    assert [target.phrase for target in targets] == ["dog", "cat"]


def test_one_mask_of_two_names_stays_and_is_pointed_out() -> None:
    answer, targets, notes = shown(["cup is", "and mug is", "."], "the cup and the mug", LEFT, LEFT)
    assert answer == "cup is [1] and mug is [2]." and len(targets) == 2
    assert notes == ('"cup" and "mug" have the same mask; check which of them it is.',)


def test_what_is_not_drawn_is_denied_and_the_numbers_follow() -> None:
    texts = ["bird is", ", dog is", "and bird is", "."]
    answer, targets, _ = shown(texts, "the birds and the dog", NOTHING, LEFT, NOTHING)
    assert answer == "dog is [1]. There is no bird in this image." and len(targets) == 1


def test_the_number_of_targets_is_limited_with_a_note() -> None:
    places = [block((8 * i, 8 * i, 8 * i + 6, 8 * i + 6)) for i in range(4)]
    texts = ["dog is", ", dog is", ", dog is", "and dog is", "."]
    answer, targets, notes = shown(texts, "the dogs", *places, limit=2)
    assert answer == "dog is [1] and dog is [2]." and len(targets) == 2
    assert notes == ("The answer has 4 targets; only the first 2 are shown.",)


@pytest.mark.parametrize(
    ("texts", "phrases"),
    [
        (["There is no cow on the left is", "."], ["cow on the left"]),
        (["There is no dog in this image. cow is", "."], ["cow"]),
        (["cup is", "and no fork is", "."], ["cup", "fork"]),
        (["There are no dogs is", "."], ["dogs"]),
        (["no entry sign is", "."], ["entry sign"]),
    ],
)
def test_a_denial_is_no_phrase(texts: list[str], phrases: list[str]) -> None:
    assert name_targets(texts, "") == phrases


def test_a_denied_target_of_which_nothing_is_drawn_is_denied() -> None:
    answer, targets, _ = shown(["There is no cow on the left is", "."], "the cow on the left", NOTHING)
    assert answer == "There is no cow on the left in this image." and targets == []


def test_what_is_drawn_is_not_denied() -> None:
    answer, targets, _ = shown(["There is no cow on the left is", "."], "the cow on the left", LEFT)
    assert answer == "cow on the left is [1]." and targets[0].phrase == "cow on the left"


@pytest.mark.parametrize("question", ["all the dogs", "Segment every dog.", "Mark each dog on its own."])
def test_one_mask_of_all_the_dogs_becomes_one_for_each(question: str) -> None:
    speckle = (30, 4, 32, 6)
    both = block((4, 4, 20, 20), (40, 30, 60, 50), speckle)
    answer, targets, notes = shown(["dog is", "."], question, both)
    assert answer == "dog is [1] and [2]." and "each separate part" in notes[0]
    left, right = targets
    assert left.mask[4 * 10, 4 * 10] and right.mask[4 * 40, 4 * 50]
    assert left.mask.sum() + right.mask.sum() == pytest.approx(16 * (256 + 400 + 4), rel=0.02)
    assert left.box[2] < right.box[2]


def test_whether_each_is_asked_for_is_read_from_the_prompt_as_typed() -> None:
    image = process_image(Image.new("RGB", (2 * SIZE, 2 * SIZE)), SIZE)
    both = torch.stack([block((4, 4, 20, 20), (40, 30, 60, 50))])
    _, targets, _ = shown_answer(["dog is", "."], "segment the dogs", both, image, CONFIG, 50, "all the dogs")
    assert len(targets) == 2


def test_things_farther_away_are_things_of_their_own() -> None:
    """One of three dogs covers an eighth of the largest one's area."""
    speckle = (30, 4, 32, 6)
    dogs = block((4, 4, 15, 14), (40, 30, 45, 36), (50, 50, 54, 54), speckle)
    _, targets, _ = shown(["dog is", "."], "all the dogs", dogs)
    assert len(targets) == 3


@pytest.mark.parametrize("question", ["the dogs", "dogs", "all the cats", "all objects"])
def test_a_group_stays_one_mask(question: str) -> None:
    answer, targets, notes = shown(["dog is", "."], question, block((4, 4, 20, 20), (40, 30, 60, 50)))
    assert answer == "dog is [1]." and len(targets) == 1 and notes == ()


def test_no_more_parts_than_the_limit() -> None:
    _, targets, _ = shown(["dog is", "."], "all dogs", block((4, 4, 20, 20), (40, 30, 60, 50)), limit=1)
    assert len(targets) == 1


@pytest.mark.parametrize(
    ("question", "phrase", "each"),
    [
        ("all of the buses", "bus", True),
        ("all the boxes and the cat", "box", True),
        ("Show me all the dogs, separately.", "dog", True),
        ("every butterfly", "butterfly", True),
        ("all the dogs and the cat", "cat", False),
        ("all the things", "thing", False),
        ("", "dog", False),
    ],
)
def test_each_thing_is_asked_for_or_the_group(question: str, phrase: str, each: bool) -> None:
    assert asks_for_each(question, phrase) is each


def test_what_was_said_after_the_last_target_stays() -> None:
    assert usual_texts([], ". There is no cup.") == ["There is no cup."]
    assert usual_texts(["a", "b", "c"], "and d is") == ["a is", ", b is", "and c is", "."]


def answered(name: str, logits: torch.Tensor) -> Segmentation:
    answer, targets, notes = shown([f"{name} is", "."], name, logits)
    return Segmentation(answer, tuple(targets), notes)


def test_answers_to_several_names_become_one() -> None:
    parts = [
        answered("cup", LEFT),
        answered("fork", NOTHING),
        answered("dog", RIGHT),
        answered("cow", NOTHING),
    ]
    joined = as_one(parts, 50)
    assert isinstance(joined, Segmentation)
    assert joined.answer == "cup is [1] and dog is [2]. There is no fork and no cow in this image."
    assert [target.phrase for target in joined.targets] == ["cup", "dog"] and joined.warnings == ()


def test_joined_answers_are_limited_and_compared() -> None:
    joined = as_one([answered("cup", LEFT), answered("mug", LEFT), answered("dog", RIGHT)], 2)
    assert isinstance(joined, Segmentation) and joined.answer == "cup is [1] and mug is [2]."
    assert joined.warnings == (
        "The answer has 3 targets; only the first 2 are shown.",
        '"cup" and "mug" have the same mask; check which of them it is.',
    )


def test_nothing_found_of_several_names() -> None:
    joined = as_one([answered("cup", NOTHING), answered("dog", NOTHING)], 50)
    assert isinstance(joined, Segmentation)
    assert joined.answer == "There is no cup and no dog in this image." and joined.targets == ()
    assert as_one([], 50) == Segmentation("", ())


def test_an_error_is_the_answer() -> None:
    error = PromptError("too long")
    assert as_one([answered("cup", LEFT), error], 50) is error
