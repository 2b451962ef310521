"""Which words change masks that are there, which masks they are about, and what comes of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import numpy as np
import pytest

from backend.corrections.annotation import read_regions
from backend.corrections.compare import ProposedAnswer, ProposedTarget, compare
from backend.corrections.evidence import read_evidence
from backend.corrections.training_turns import training_turns
from backend.label_studio import brush_rle
from backend.label_studio.contours import connected_parts
from backend.prompts.editing import Edit, read_edit
from backend.prompts.focus import MAX_AGE_S, MAX_REMEMBERED, Focus
from backend.prompts.model_client import ModelClient
from backend.prompts.region_edits import RegionEditor, _fits
from backend.prompts.request import Task
from label_config import read_config

HEIGHT, WIDTH = 6, 8
CONFIG = read_config(
    '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">'
    '<Label value="Cup"/><Label value="Fire hydrant"/><Label value="Other"/></BrushLabels></View>'
)


@pytest.mark.parametrize(
    ("kind", "prompts"),
    [
        ("tighter", ["tighter", "Tighter.", "make it smaller", "a bit tighter, please", "too big"]),
        ("tighter", ["shrink it", "make the mask a little tighter", "it is too loose", "less"]),
        ("looser", ["looser", "bigger", "make them a little bigger", "too small"]),
        ("looser", ["expand it", "wider", "Can you make it larger?", "grow"]),
        (
            "split",
            ["split it", "Split", "separate them", "split it up", "divide it into two", "split into parts"],
        ),
    ],
)
def test_words_that_change_a_mask(kind: Any, prompts: list[str]) -> None:
    assert [read_edit(prompt) for prompt in prompts] == [Edit(kind)] * len(prompts)


@pytest.mark.parametrize(
    ("prompt", "noun"),
    [
        ("the whole thing", ""),
        ("the entire object", ""),
        ("all of it", ""),
        ("the whole bus", "bus"),
        ("Segment the whole cup, please.", "cup"),
    ],
)
def test_words_that_ask_for_the_whole(prompt: str, noun: str) -> None:
    assert read_edit(prompt) == Edit("whole", noun)


@pytest.mark.parametrize(
    ("prompt", "noun"),
    [
        ("without the handle", "handle"),
        ("except the lid", "lid"),
        ("remove the spoon", "spoon"),
        ("Not the dog!", "dog"),
        ("no handle", "handle"),
        ("Leave out the shadow.", "shadow"),
        ("all but the red cup", "red cup"),
        ("cut off the strap", "strap"),
        ("please take out the spoon and the fork", "spoon and the fork"),
    ],
)
def test_words_that_take_something_away(prompt: str, noun: str) -> None:
    assert read_edit(prompt) == Edit("remove", noun)


@pytest.mark.parametrize(
    ("prompt", "noun"),
    [
        ("also the lid", "lid"),
        ("and the lid too", "lid"),
        ("the lid as well", "lid"),
        ("add the saucer", "saucer"),
        ("include the lid", "lid"),
        ("plus the spoon", "spoon"),
    ],
)
def test_words_that_add_something(prompt: str, noun: str) -> None:
    assert read_edit(prompt) == Edit("add", noun)


@pytest.mark.parametrize(
    ("prompt", "edit"),
    [
        ("only the left one", Edit("choose", place="left")),
        ("the right one", Edit("choose", place="right")),
        ("just the biggest", Edit("choose", place="largest")),
        ("only the one at the top", Edit("choose", place="top")),
        ("the one on the right", Edit("choose", place="right")),
        ("keep the lower one", Edit("choose", place="bottom")),
        ("I want only the smallest one.", Edit("choose", place="smallest")),
        ("no, the left one", Edit("choose", place="left")),
        ("only the middle one", Edit("choose", place="middle")),
        ("only the left cup", Edit("choose", "cup", "left")),
        ("only the cup on the left", Edit("choose", "cup", "left")),
        ("only the cup", Edit("choose", "cup")),
        ("without the left one", Edit("choose", place="left", excluded=True)),
        ("remove the one on the right", Edit("choose", place="right", excluded=True)),
    ],
)
def test_words_that_choose_some_of_the_masks(prompt: str, edit: Edit) -> None:
    assert read_edit(prompt) == edit


@pytest.mark.parametrize(
    "prompt",
    [
        "the cup",
        "the left cup",
        "the cup on the left",
        "Segment the cup and the book in this image.",
        "all the dogs",
        "everything",
        "everything but the book",
        "everything except the cup",
        "the person without a hat",
        "the no entry sign",
        "no entry sign",
        "now the book",
        "what about the banana?",
        "the cup instead",
        "the other one",
        "no, the other one",
        "a small dog",
        "remove it",
        "segment them",
        "more cups",
        "the whole",
        "the white one-way sign",
        "a tight rope",
        "",
    ],
)
def test_it_changes_nothing(prompt: str) -> None:
    assert read_edit(prompt) is None


def block(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def region(name: str, mask: np.ndarray, job: str = "1") -> dict[str, Any]:
    return {
        "id": name,
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "meta": {"text": [name], "pixellm": {"job": f"seg-{job * 32}", "target": 0, "prompt": "p"}},
        "value": {"format": "rle", "rle": brush_rle.encode(mask), "brushlabels": ["Cup"]},
    }


def task(*items: dict[str, Any]) -> Task:
    return Task(id=1, data={}, drafts=[{"result": list(items)}])


SMALL, LARGE, ELSEWHERE = block(1, 1, 3, 3), block(1, 1, 5, 5), block(6, 0, 8, 2)


def seen(focus: Focus, task: Task) -> dict[str, int]:
    return {each.id: int(each.mask.sum()) for each in focus.meant(task, CONFIG).regions}


class TestFocus:
    def test_an_answer_that_waits_is_meant(self) -> None:
        focus = Focus()
        focus.remember(task(), CONFIG, [region("a", SMALL), region("b", ELSEWHERE)], pointed=False)
        assert seen(focus, task()) == {"a": 4, "b": 4}
        assert focus.meant(task(), CONFIG).waiting == {"a", "b"}

    def test_of_an_answer_in_the_draft_only_what_was_accepted(self) -> None:
        focus = Focus()
        focus.remember(task(), CONFIG, [region("a", SMALL), region("b", ELSEWHERE)], pointed=False)
        assert seen(focus, task(region("b", ELSEWHERE))) == {"b": 4}
        assert not focus.meant(task(region("b", ELSEWHERE)), CONFIG).waiting

    def test_a_region_that_has_left_the_draft_is_deleted(self) -> None:
        focus = Focus()
        focus.remember(task(region("a", LARGE)), CONFIG, [region("a", SMALL)], pointed=True)
        assert seen(focus, task(region("b", ELSEWHERE))) == {"b": 4}

    def test_parts_that_wait_are_meant_beside_the_one_that_keeps_the_id(self) -> None:
        focus = Focus()
        parts = [region("a", SMALL), region("a2", ELSEWHERE)]
        focus.remember(task(region("a", SMALL | ELSEWHERE)), CONFIG, parts, pointed=False)
        meant = focus.meant(task(region("a", SMALL | ELSEWHERE)), CONFIG)
        assert [each.id for each in meant.regions] == ["a", "a2"] and meant.waiting == {"a", "a2"}

    def test_a_change_that_waits_counts_and_strokes_after_it_count_more(self) -> None:
        focus = Focus()
        focus.remember(task(region("a", LARGE)), CONFIG, [region("a", SMALL)], pointed=True)
        assert seen(focus, task(region("a", LARGE))) == {"a": 4}
        assert seen(focus, task(region("a", block(1, 1, 5, 2)))) == {"a": 4}
        assert focus.meant(task(region("a", SMALL)), CONFIG).pointed

    def test_without_memory_the_newest_prompt_in_the_draft_is_meant(self) -> None:
        items = [region("a", SMALL, "1"), region("b", SMALL, "2"), region("c", ELSEWHERE, "2")]
        assert seen(Focus(), task(*items)) == {"b": 4, "c": 4}
        assert seen(Focus(), task()) == {}

    def test_an_answer_without_masks_leaves_the_ones_before(self) -> None:
        focus = Focus()
        focus.remember(task(), CONFIG, [], pointed=False)
        assert seen(focus, task(region("a", SMALL))) == {"a": 4}

    def test_what_was_shown_long_ago_is_not_meant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        focus = Focus()
        focus.remember(task(), CONFIG, [region("a", SMALL)], pointed=False)
        later = time.monotonic() + MAX_AGE_S
        monkeypatch.setattr("backend.prompts.focus.time.monotonic", lambda: later)
        assert not focus.meant(task(), CONFIG).regions

    def test_the_memory_is_bounded(self) -> None:
        focus = Focus()
        for number in range(MAX_REMEMBERED + 1):
            other = Task(id=number, data={}, drafts=[])
            focus.remember(other, CONFIG, [region("a", SMALL)], pointed=False)
        assert not focus.meant(Task(id=0, data={}, drafts=[]), CONFIG).regions


def test_parts_are_the_mask_and_small_ones_stay_with_the_largest() -> None:
    mask = np.zeros((60, 80), bool)
    mask[5:35, 5:35] = True
    mask[10:20, 10:20] = False
    mask[13:17, 13:17] = True  # in the hole
    mask[40:50, 50:70] = True
    mask[0, 79] = True  # a speckle
    first, second, third = connected_parts(mask, 0.01, 10)
    assert np.array_equal(first | second | third, mask) and first[0, 79]
    assert first.sum() == 801 and second.sum() == 200 and third.sum() == 16
    assert len(connected_parts(mask, 0.1, 10)) == 2 and len(connected_parts(mask, 0.01, 2)) == 2
    assert np.array_equal(connected_parts(block(0, 0, 2, 2), 0.01, 10)[0], block(0, 0, 2, 2))


PROMPT = "the cups"
ANSWER = ProposedAnswer(
    job="seg-" + "1" * 32,
    prompt=PROMPT,
    answer="cup is [1] and cup is [2].",
    targets=(ProposedTarget("cup", LARGE), ProposedTarget("cup", ELSEWHERE)),
)


class TestWhatIsLearned:
    """The model's own job is not needed for these edits, so there is no queue."""

    def edited(self, prompt: str, *items: dict[str, Any]) -> list[dict[str, Any]]:
        focus, edit = Focus(), read_edit(prompt)
        assert edit is not None
        focus.remember(task(), CONFIG, items, pointed=False)
        meant = focus.meant(task(), CONFIG)
        editor = RegionEditor(cast(ModelClient, None), 1)
        change = asyncio.run(editor.apply(edit, meant, task(), CONFIG, None))
        assert change is not None
        return change.with_waiting(meant).items

    def turns(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        accepted = [item | {"origin": "prediction"} for item in items]
        evidence = read_evidence({"result": accepted})
        outcomes = compare(read_regions(accepted, CONFIG), [ANSWER], CONFIG, evidence)
        assert all(outcome.kind != "rejected" for outcome in outcomes)
        turns, _ = training_turns(outcomes, [ANSWER], CONFIG, evidence)
        return turns

    def both(self) -> tuple[dict[str, Any], dict[str, Any]]:
        second = region("b", ELSEWHERE)
        second["meta"]["pixellm"]["target"] = 1
        return region("a", LARGE), second

    def test_the_masks_that_were_not_chosen_are_not_denied(self) -> None:
        (chosen,) = self.edited("only the left one", *self.both())
        assert chosen["id"] == "a" and self.turns([chosen]) == []

    def test_a_name_chooses_too(self) -> None:
        first, second = self.both()
        first["meta"]["text"], second["meta"]["text"] = ["red cup"], ["book on the left"]
        assert [item["id"] for item in self.edited("without the cup", first, second)] == ["b"]
        assert [item["id"] for item in self.edited("only the book", first, second)] == ["b"]

    def test_the_parts_of_a_mask_are_the_answer_to_its_prompt(self) -> None:
        both = region("a", SMALL | ELSEWHERE)
        second = region("c", block(0, 5, 8, 6))
        second["meta"]["pixellm"]["target"] = 1
        parts = self.edited("split it", both, second)
        assert len(parts) == 3
        (turn,) = self.turns(parts)
        assert turn["prompt"] == PROMPT and len(turn["targets"]) == 3

    @pytest.mark.parametrize(
        ("prompt", "chosen"),
        [
            ("the right one", "b"),
            ("only the top one", "b"),
            ("the largest", "a"),
            ("without the biggest", "b"),
        ],
    )
    def test_places_and_sizes(self, prompt: str, chosen: str) -> None:
        assert [item["id"] for item in self.edited(prompt, *self.both())] == [chosen]


@pytest.mark.parametrize(
    ("noun", "phrase", "fits"),
    [
        ("cups", "red cup", True),
        ("red cup", "red cup", True),
        ("red cup", "blue cup", False),
        ("the cup and the book", "book", True),
        ("trespassing sign", "stop sign", False),
        ("cup", "cup on the left", True),
        ("", "cup", False),
    ],
)
def test_which_masks_a_noun_names(noun: str, phrase: str, fits: bool) -> None:
    assert _fits(noun, phrase) is fits
