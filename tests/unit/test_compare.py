"""Comparing annotations with proposals, with annotations as Label Studio sends them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.corrections.annotation import Region, UnreadableAnnotation, read_regions
from backend.corrections.compare import ProposedAnswer, ProposedTarget, compare
from backend.corrections.evidence import Evidence, read_evidence
from backend.corrections.plain_prompts import plain_labels
from backend.corrections.training_turns import training_turns
from backend.label_studio.brush_rle import encode
from backend.label_studio.strokes import paint
from backend.prompts.shapes import region_id, region_values
from label_config import read_config
from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle

WEBHOOKS = Path(__file__).parents[1] / "data" / "webhooks"
XML = """<View><Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cup"/><Label value="Book"/></BrushLabels></View>"""
CONFIG = read_config(XML.replace("</View>", '<TextArea name="answer" toName="image"/></View>'))
ASKING = read_config(
    XML.replace(
        "</View>",
        """<TextArea name="prompt" toName="image" smart="true"/>
  <TextArea name="answer" toName="image"/></View>""",
    )
)


def event(name: str) -> dict[str, Any]:
    return json.loads((WEBHOOKS / f"{name}.json").read_text())


def block(left: int, width: int = 4, shape: tuple[int, int] = (12, 24)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[2:8, left : left + width] = True
    return mask


PROPOSED = ProposedAnswer(
    "seg-1",
    "the cup and the book",
    "cup is [1] and book is [2].",
    (ProposedTarget("cup", block(1), 0.9), ProposedTarget("book", block(10), 0.8)),
    history=(("everything", "cup is [1]."),),
    model_version="base-1",
)


def region(
    mask: np.ndarray, label: str | None = "Cup", origin: str = "prediction", index: int | None = 0
) -> dict[str, Any]:
    """A region as it is submitted: ours when it has an index."""
    height, width = mask.shape
    ours = {"job": "seg-1", "target": index, "prompt": PROPOSED.prompt, "label": ["Cup", "Book"][index or 0]}
    return {
        "id": region_id("seg-1", index) if index is not None else "drawn",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(mask), "brushlabels": [label] if label else []},
        "origin": origin,
        **({"meta": {"text": ["x"], "pixellm": ours}} if index is not None else {}),
    }


def polygons(
    mask: np.ndarray, label: str = "Cup", index: int | None = 0, **changes: Any
) -> list[dict[str, Any]]:
    """Polygon regions as they are submitted, one for each part of the mask: ours when there is an index."""
    values = region_values(mask, "polygonlabels")
    items = []
    for part, value in enumerate(values):
        item = region(mask, label, index=index) | {"from_name": "outline", "type": "polygonlabels"}
        item["value"] = value | {"polygonlabels": [label]}
        item["id"] = f"drawn{part}" if index is None else region_id("seg-1", index, "polygonlabels", part)
        if index is None:
            item["origin"] = "manual"
        else:
            item["meta"]["pixellm"] |= {"part": part, "parts": len(values)}
        items.append(item | changes)
    return items


def rectangle(label: str | None = "Cup", **changes: Any) -> dict[str, Any]:
    """A rectangle drawn by hand, as Label Studio submits it."""
    return {
        "id": "drawn-box",
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 24,
        "original_height": 12,
        "image_rotation": 0,
        "value": {"x": 4, "y": 16, "width": 16, "height": 50, "rotation": 0}
        | {"rectanglelabels": [label] if label else []},
        "origin": "manual",
        **changes,
    }


def text(control: str, words: str) -> dict[str, Any]:
    value = {"text": [words]}
    return {"id": control, "from_name": control, "to_name": "image", "type": "textarea", "value": value}


def choice(words: str, **changes: Any) -> dict[str, Any]:
    value = {"choices": [words]}
    item = {"id": "c", "from_name": "light", "to_name": "image", "type": "choices", "value": value}
    return item | changes


NOTHING_ELSE = choice("Nothing more to mark", from_name="nothing_else", id="n")


def compared(*items: dict[str, Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    return learned(items, [PROPOSED])[:2]


def learned(
    items: Sequence[dict[str, Any]], proposals: list[ProposedAnswer], **fields: Any
) -> tuple[list[Any], list[dict[str, Any]], list[str]]:
    """Outcomes, turns, and why something is not learned."""
    evidence = read_evidence({"result": items, **fields})
    outcomes = compare(read_regions(items, CONFIG), proposals, CONFIG, evidence)
    return outcomes, *training_turns(outcomes, proposals, CONFIG, evidence)


def test_what_is_accepted_keeps_the_models_words_and_history() -> None:
    outcomes, (turn,) = compared(region(block(1)), region(block(10), "Book", index=1))
    assert [outcome.kind for outcome in outcomes] == ["accepted", "accepted"]
    assert turn["answer"] == "cup is {seg} and book is {seg}."
    assert turn["history"] == [["everything", "cup is [1]."]]
    assert [target["label"] for target in turn["targets"]] == ["Cup", "Book"]
    assert (from_rle(CocoRLE.model_validate(turn["targets"][0]["mask"])) == block(1)).all()


def test_an_edited_mask_is_the_truth_and_says_how_far_it_was_off() -> None:
    outcomes, (turn,) = compared(
        region(block(3), origin="prediction-changed"), region(block(10), "Book", index=1)
    )
    assert outcomes[0].kind == "edited" and outcomes[0].iou == pytest.approx(2 / 6)
    assert (from_rle(CocoRLE.model_validate(turn["targets"][0]["mask"])) == block(3)).all()


def test_a_label_that_label_studio_overwrote_is_told_from_a_deliberate_one() -> None:
    """On accept every region gets the label that is active: origin is still "prediction"."""
    outcomes, _ = compared(region(block(1), "Book"), region(block(10), "Book", index=1))
    assert [(o.kind, o.label) for o in outcomes] == [("accepted", "Cup"), ("accepted", "Book")]
    outcomes, (turn,) = compared(
        region(block(1), "Book", "prediction-changed"), region(block(10), "Book", index=1)
    )
    assert [(o.kind, o.label) for o in outcomes] == [("relabelled", "Book"), ("accepted", "Book")]
    assert turn["prompt"] == "Segment the book.", "whether there is another cup is not known"
    assert [t["phrase"] for t in turn["targets"]] == ["book", "book"]


def test_what_was_drawn_for_a_mask_replaces_it() -> None:
    drawn = region(block(12), "Book", "manual", None)
    outcomes, (turn,) = compared(region(block(1)), drawn)
    assert [o.kind for o in outcomes] == ["accepted", "redrawn"]
    assert [t["phrase"] for t in turn["targets"]] == ["cup", "book"]


def test_all_rejected_is_an_answer_too() -> None:
    outcomes, (turn,) = compared(NOTHING_ELSE)
    assert {o.kind for o in outcomes} == {"rejected"}
    assert turn["targets"] == [] and turn["answer"] == "There is no cup and book in this image."


def test_a_mask_that_may_have_been_forgotten_denies_nothing() -> None:
    outcomes, turns, reasons = learned([region(block(1))], [PROPOSED])
    assert [(o.kind, o.phrase) for o in outcomes] == [("accepted", "cup"), ("open", "book")]
    (turn,) = turns
    assert turn["prompt"] == "Segment the cup.", "of what it asks for, only the cup is known"
    assert reasons[0].startswith('"the cup and the book": a proposed mask (book) was neither accepted nor')
    assert learned([], [PROPOSED]) == ([], [], []) == learned([text("answer", "cup is [1].")], [PROPOSED])


def test_what_was_deleted_from_a_copied_prediction_was_rejected() -> None:
    prediction = {"result": [region(block(1)), region(block(10), "Book", index=1)]}
    outcomes, (turn,), _ = learned([region(block(1))], [PROPOSED], prediction=prediction)
    assert [(o.kind, o.phrase) for o in outcomes] == [("accepted", "cup"), ("rejected", "book")]
    assert turn["prompt"] == PROPOSED.prompt and len(turn["targets"]) == 1 and turn["answer"] is None
    outcomes, _, _ = learned([region(block(1))], [PROPOSED], prediction={"result": [region(block(1))]})
    assert [o.kind for o in outcomes] == ["accepted", "open"], "a mask that the prediction did not show"


def test_the_choice_that_nothing_is_missing_rejects_the_rest() -> None:
    outcomes, (turn,), _ = learned([region(block(1)), NOTHING_ELSE], [PROPOSED])
    assert [o.kind for o in outcomes] == ["accepted", "rejected"]
    assert turn["prompt"] == PROPOSED.prompt and len(turn["targets"]) == 1


def test_a_prompt_for_all_of_a_label_is_not_answered_by_one_of_its_masks() -> None:
    cup = replace(PROPOSED, prompt="the cup", answer="cup is [1].", targets=PROPOSED.targets[:1])
    missed = region(block(18), "Cup", "manual", None)
    for more in ([], [NOTHING_ELSE]):
        _, turns, reasons = learned([region(block(1)), missed, *more], [cup])
        assert [(turn["prompt"], len(turn["targets"])) for turn in turns] == [("Segment the cup.", 2)]
        assert "further masks" in reasons[0]


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("Please find the cups in this image.", {"Cup"}),
        ("can you segment the cup", {"Cup"}),
        ("where are the cups?", {"Cup"}),
        ("all  of the cups and every book", {"Cup", "Book"}),
        ("the red cup and the book", {"Book"}),
        ("the cup on the left", set()),
        ("the window", set()),
    ],
)
def test_which_labels_a_prompt_asks_for_in_full(prompt: str, plain: set[str]) -> None:
    assert plain_labels(prompt, CONFIG) == plain


def test_a_drawn_mask_does_not_answer_a_prompt_that_narrows_its_label_down() -> None:
    left = ProposedAnswer("seg-2", "the cup on the left", "There is no cup in this image.", ())
    drawn = [region(block(x), "Cup", "manual", None) for x in (1, 18)]
    _, turns, _ = learned(drawn, [left])
    assert [(turn["prompt"], len(turn["targets"])) for turn in turns] == [("Segment the cup.", 2)]


def test_a_denial_is_not_learned_of_what_another_prompt_found() -> None:
    first = replace(
        PROPOSED,
        prompt="the red cup and the book",
        answer="cup is [1]. There is no book in this image.",
        targets=PROPOSED.targets[:1],
    )
    second = ProposedAnswer(
        "seg-2", "the book on the right", "book is [1].", (ProposedTarget("book", block(10)),)
    )
    book = region(block(10), "Book", index=0)
    book["meta"] = {"pixellm": {"job": "seg-2", "target": 0, "prompt": second.prompt, "label": "Book"}}
    _, turns, _ = learned([region(block(1)), book | {"id": "x"}, NOTHING_ELSE], [first, second])
    assert not any("no book" in (turn["answer"] or "") for turn in turns)
    assert first.prompt not in [turn["prompt"] for turn in turns]


def test_a_mask_elsewhere_does_not_replace_a_rejected_one() -> None:
    red = replace(PROPOSED, prompt="the red cup", answer="cup is [1].", targets=PROPOSED.targets[:1])
    outcomes, turns, _ = learned([region(block(18), "Cup", "manual", None), NOTHING_ELSE], [red])
    assert "redrawn" not in [outcome.kind for outcome in outcomes]
    assert not [turn for turn in turns if turn["prompt"] == red.prompt and turn["targets"]]


def test_nothing_is_denied_that_is_no_label() -> None:
    window = replace(
        PROPOSED, prompt="the window", answer="window is [1].", targets=(ProposedTarget("window", block(1)),)
    )
    _, turns, _ = learned([NOTHING_ELSE], [window])
    assert turns == []


def test_a_name_that_the_answer_left_out_is_not_learned_as_absent() -> None:
    silent = replace(PROPOSED, answer="cup is [1].", targets=PROPOSED.targets[:1])
    _, turns, reasons = learned([region(block(1))], [silent])
    assert [turn["prompt"] for turn in turns] == ["Segment the cup."] and "absent" in reasons[0]


def test_a_prompt_that_was_asked_in_other_words_denies_nothing() -> None:
    mug = ProposedAnswer("seg-2", "the mug", "mug is [1].", (ProposedTarget("cup", block(18)),))
    accepted = region(block(1), index=0)
    outcomes, turns, _ = learned([accepted, NOTHING_ELSE], [mug, PROPOSED])
    assert [turn["prompt"] for turn in turns] == [PROPOSED.prompt]
    assert "seg-2" not in [o.job for o in outcomes]


def test_what_another_prompt_found_belongs_to_the_first_one_too() -> None:
    """Whatever is chosen: the first prompt asks for both cups, and its answer here has one."""
    cups = ProposedAnswer(
        "seg-1", "the cups", "cups are [1] and [2].", tuple(ProposedTarget("cup", block(x)) for x in (1, 10))
    )
    right = ProposedAnswer("seg-2", "the right cup", "cup is [1].", (ProposedTarget("cup", block(10)),))
    other = region(block(10), index=0)
    other["meta"] = {"pixellm": {"job": "seg-2", "target": 0, "prompt": right.prompt, "label": "Cup"}}
    _, turns, _ = learned([region(block(1)), other | {"id": "x"}, NOTHING_ELSE], [cups, right])
    assert [turn["prompt"] for turn in turns] == ["the right cup"]


def test_a_mask_that_the_prediction_did_not_show_is_not_denied_with_the_others() -> None:
    prediction = {"result": [region(block(1))]}
    outcomes, turns, _ = learned([], [PROPOSED], prediction=prediction)
    assert [o.kind for o in outcomes] == ["rejected", "open"] and turns == []


def test_a_second_mask_of_one_object_is_rejected_by_the_choice() -> None:
    twice = ProposedAnswer(
        "seg-1", "the cup", "cup is [1] and [2].", tuple(ProposedTarget("cup", block(x)) for x in (1, 2))
    )
    outcomes, (turn,), _ = learned([region(block(1)), NOTHING_ELSE], [twice])
    assert [o.kind for o in outcomes] == ["accepted", "rejected"] and turn["prompt"] == "the cup"


def test_the_models_own_denial_is_not_confirmed_by_accepting_the_rest() -> None:
    half = replace(
        PROPOSED, answer="cup is [1]. There is no book in this image.", targets=PROPOSED.targets[:1]
    )
    _, (turn,), reasons = learned([region(block(1))], [half])
    assert turn["prompt"] == "Segment the cup." and "absent" in reasons[0]
    _, (turn,), reasons = learned([region(block(1)), NOTHING_ELSE], [half])
    assert turn["answer"] == "cup is {seg}. There is no book in this image." and not reasons
    # What is said about it beyond its name is not known of its label.
    half = replace(half, prompt="the cup on the left and the book")
    _, turns, reasons = learned([region(block(1))], [half])
    assert not turns and len(reasons) == 1


def test_one_of_two_that_were_asked_for_is_not_the_whole_answer() -> None:
    none = ProposedAnswer("seg-2", PROPOSED.prompt, "There is no cup and no book in this image.", ())
    _, turns, _ = learned([region(block(1), origin="manual", index=None)], [none])
    assert [turn["prompt"] for turn in turns] == ["Segment the cup."]


def test_a_mask_drawn_beside_one_that_may_have_been_forgotten_is_not_all_there_is() -> None:
    drawn = region(block(18), "Cup", "manual", None)
    outcomes, turns, reasons = learned([drawn], [PROPOSED])
    assert [o.kind for o in outcomes] == ["added", "open"] and turns == [] and '"Cup"' in reasons[0]
    _, turns, _ = learned([drawn, NOTHING_ELSE], [PROPOSED])
    assert [len(turn["targets"]) for turn in turns] == [1]


def test_one_mask_in_place_of_two_leaves_the_other_open() -> None:
    outcomes, turns, _ = learned([region(block(2), "Cup", "manual", None)], [PROPOSED])
    assert [o.kind for o in outcomes] == ["redrawn", "open"]
    assert [turn["prompt"] for turn in turns] == ["Segment the cup."]


def test_the_models_words_are_kept_only_about_its_own_masks() -> None:
    dogs = ProposedAnswer(
        "seg-1",
        "the books and the cup",
        "The books are [1] and [2].",
        tuple(ProposedTarget("books", block(x)) for x in (1, 10)),
    )
    drawn = region(block(18), "Cup", "manual", None)
    _, turns, _ = learned([region(block(1), "Book"), drawn, NOTHING_ELSE], [dogs])
    assert [t["phrase"] for t in turns[0]["targets"]] == ["books", "cup"] and turns[0]["answer"] is None


def test_a_mask_of_something_else_does_not_answer_the_prompt() -> None:
    cup = replace(PROPOSED, prompt="the cup", answer="cup is [1].", targets=PROPOSED.targets[:1])
    _, turns, _ = learned([region(block(1), "Book", "prediction-changed"), NOTHING_ELSE], [cup])
    assert [turn["prompt"] for turn in turns] == ["Segment the book."]


def test_a_prompt_whose_masks_were_never_taken_says_nothing() -> None:
    outcomes, turns = compared(region(block(18), None, "manual", None))
    assert [o.kind for o in outcomes] == ["added"] and turns == []


def test_a_mask_drawn_without_a_prompt_is_asked_for_by_its_label() -> None:
    second = region(block(18), "Cup", "manual", None)
    outcomes, turns = compared(region(block(1)), region(block(10), "Book", index=1), second)
    assert outcomes[-1].kind == "added"
    assert [turn["prompt"] for turn in turns] == ["Segment the cup.", "Segment the book."]
    assert len(turns[0]["targets"]) == 2, "all cups, the accepted one included"


def test_what_a_prompt_missed_is_learned_as_its_answer() -> None:
    denied = ProposedAnswer("seg-2", "Segment the cups.", "There is no cup in this image.", ())
    by_hand = read_regions([region(block(1), origin="manual", index=None)], CONFIG)
    outcomes = compare(by_hand, [denied], CONFIG)
    assert [(o.kind, o.prompt, o.phrase) for o in outcomes] == [("added", denied.prompt, "cups")]
    asked, named = training_turns(outcomes, [denied], CONFIG, Evidence())[0]
    assert asked["prompt"] == denied.prompt and asked["answer"] is None
    assert [target["phrase"] for target in asked["targets"]] == ["cups"]
    assert named["prompt"] == "Segment the cup."

    # The newest prompt that asked for it, and only one that did.
    later = ProposedAnswer("seg-3", "the cup", "There is no cup in this image.", ())
    other = ProposedAnswer("seg-4", "the book beside the cup", "There is no book in this image.", ())
    assert [o.job for o in compare(by_hand, [denied, later, other], CONFIG)] == ["seg-3"]


def test_what_was_not_shown_is_not_rejected() -> None:
    cup, book = PROPOSED.targets
    proposed = replace(PROPOSED, targets=(cup, replace(book, hidden=True)))
    accepted = region(block(1))
    outcomes, (turn,), _ = learned([accepted], [proposed], prediction={"result": [accepted]})
    assert [(o.kind, o.label) for o in outcomes] == [("accepted", "Cup"), ("open", "Book")]
    assert turn["prompt"] == "Segment the cup.", "an answer without the book would deny it"
    # The annotation began as a copy without any mask, since both scores were too low.
    proposed = replace(proposed, targets=tuple(replace(target, hidden=True) for target in PROPOSED.targets))
    assert learned([], [proposed], prediction={"result": []})[:2] == ([], [])


def test_what_was_not_shown_does_not_count_as_an_answer() -> None:
    hidden = replace(PROPOSED.targets[1], hidden=True)
    asked = replace(PROPOSED, prompt="the book", answer="book is [1].", targets=(hidden,))
    by_hand = region(block(12), "Book", "manual", None)
    assert [(o.kind, o.job) for o in learned([by_hand], [asked])[0]] == [("redrawn", "seg-1")]
    elsewhere = region(block(18), "Book", "manual", None)
    assert ("added", "seg-1") in {(o.kind, o.job) for o in learned([elsewhere], [asked])[0]}


def test_half_an_answer_is_completed_by_hand() -> None:
    half = ProposedAnswer(
        "seg-1",
        PROPOSED.prompt,
        "cup is [1]. There is no book in this image.",
        (ProposedTarget("cup", block(1)),),
    )
    regions = read_regions([region(block(1)), region(block(12), "Book", "manual", None)], CONFIG)
    outcomes = compare(regions, [half], CONFIG)
    assert [(o.kind, o.prompt) for o in outcomes] == [("accepted", half.prompt), ("added", half.prompt)]
    first, _ = training_turns(outcomes, [half], CONFIG, Evidence())[0]
    assert first["answer"] is None and [t["phrase"] for t in first["targets"]] == ["cup", "book"]


def test_regions_are_known_by_id_where_meta_is_gone() -> None:
    item = region(block(1), "Book")
    del item["meta"]
    outcomes, _ = compared(item, region(block(10), "Book", index=1))
    assert [(o.kind, o.label) for o in outcomes] == [("accepted", "Cup"), ("accepted", "Book")]


def test_an_unrecorded_answer_teaches_the_label_but_not_the_prompt() -> None:
    """It is not recorded where the model did not know a word of the prompt."""
    outcomes = compare(read_regions([region(block(1), "Book")], CONFIG), [], CONFIG)
    (turn,), (reason,) = training_turns(outcomes, [], CONFIG, Evidence())
    assert outcomes[0].iou is None and outcomes[0].label == "Cup"
    assert turn["prompt"] == "Segment the cup." and turn["targets"][0]["phrase"] == "cup"
    assert "did not know a word" in reason


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("annotation_created_from_suggestions", ["Circle", "Square"]),
        ("annotation_created_from_prediction_erased", ["Circle", "Square"]),
        ("annotation_updated_manual_added", ["Circle", "Square", "Triangle"]),
        ("annotation_created_bitmask", ["Circle", "Square"]),
        ("annotation_created_empty", []),
    ],
)
def test_recorded_annotations_are_read(name: str, labels: list[str]) -> None:
    body = event(name)
    if name == "annotation_created_empty":
        assert body["annotation"]["result"] == []
        return
    config = read_config(body["project"]["label_config"])
    regions = read_regions(body["annotation"]["result"], config)
    assert [one.label for one in regions] == labels
    assert all(one.mask.shape == (480, 640) and one.mask.any() for one in regions)


def test_a_drafts_strokes_are_merged() -> None:
    draft = event("draft_with_touches")
    config = read_config(XML.replace('"mask"', '"brush"').replace("Cup", "Circle").replace("Book", "Square"))
    with_strokes, _ = read_regions(draft["result"], config)
    for item in draft["result"]:
        item["value"].pop("touches", None)
    without, _ = read_regions(draft["result"], config)
    gone = without.mask & ~with_strokes.mask
    assert 100 < gone.sum() < without.mask.sum() and not (with_strokes.mask & ~without.mask).any()
    rows = np.flatnonzero(gone.any(1))
    assert abs(rows.mean() - 0.3007 * 480) < 4, "where the eraser went"


@given(arrays(bool, (20, 30)), st.floats(0, 100), st.floats(0, 100), st.floats(0, 20))
@settings(max_examples=50)
def test_a_stroke_only_adds_or_only_takes_away(mask: np.ndarray, x: float, y: float, width: float) -> None:
    touch = {"type": "add", "relativePoints": [x, y, y, x], "relativeStrokeWidth": width}
    added = paint(mask, [touch])
    assert (added >= mask).all()
    erased = paint(mask, [touch | {"type": "eraser"}])
    assert (erased <= mask).all()
    assert not (erased & (added & ~mask)).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": {"rle": [1, 2, 3], "brushlabels": ["Cup"]}}, "fewer than its header"),
        ({"value": {"brushlabels": ["Cup"]}}, "holds no mask"),
        ({"value": None}, "no value"),
        ({"original_width": None}, "how large"),
        ({"original_width": 10**9}, "how large"),
        ({"image_rotation": 90}, "rotated"),
        ({"value": {"rle": encode(block(1)), "touches": [{"relativePoints": [1]}]}}, "no points"),
    ],
)
def test_what_cannot_be_read_is_said(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UnreadableAnnotation, match=words):
        read_regions([region(block(1)) | change], CONFIG)


def test_a_polygon_drawn_for_a_mask_is_a_mask() -> None:
    drawn = polygons(block(2), index=None)
    outcomes, (turn,) = compared(*drawn, region(block(10), "Book", index=1))
    assert [(o.kind, o.label) for o in outcomes] == [("accepted", "Book"), ("redrawn", "Cup")]
    assert outcomes[1].iou == pytest.approx(3 / 5)
    assert (from_rle(CocoRLE.model_validate(turn["targets"][0]["mask"])) == block(2)).all()


def test_polygons_of_one_target_are_one_mask() -> None:
    two = block(1, 3) | block(6, 3)
    proposed = replace(PROPOSED, targets=(ProposedTarget("cup", two), PROPOSED.targets[1]))

    def kinds(*items: dict[str, Any]) -> list[tuple[str, float | None]]:
        regions = read_regions([*items, region(block(10), "Book", index=1)], CONFIG)
        return [(o.kind, o.iou) for o in compare(regions, [proposed], CONFIG) if o.index == 0]

    first, second = polygons(two)
    assert kinds(first, second) == [("accepted", 1)]
    assert kinds(first | {"meta": {}}, second | {"meta": {}}) == [("accepted", 1)], "known by their ids"
    assert kinds(first) == [("edited", pytest.approx(1 / 2))]
    (moved,) = polygons(block(2, 3))
    kept = {key: first[key] for key in ("id", "meta")}
    changed = moved | kept | {"origin": "prediction-changed"}
    assert kinds(changed, second) == [("edited", pytest.approx(5 / 7))]


def test_untouched_polygons_stand_for_the_mask_that_they_follow() -> None:
    y, x = np.mgrid[:60, :80]
    disk = (x - 40) ** 2 + (y - 30) ** 2 < 400
    proposed = replace(PROPOSED, targets=(ProposedTarget("cup", disk),))
    (item,) = polygons(disk)
    regions = read_regions([item], CONFIG)
    assert (regions[0].mask != disk).any()
    (outcome,) = compare(regions, [proposed], CONFIG)
    assert outcome.kind == "accepted" and outcome.region and (outcome.region.mask == disk).all()


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([rectangle()], "rectanglelabels"),
        ([rectangle("Sign")], "rectanglelabels"),
        ([rectangle(), text("answer", "cup is [1].")], "rectanglelabels"),
        ([region(block(10), "Book", index=1), rectangle()], "rectanglelabels"),
        ([region(block(10), "Book", index=1), rectangle(None)], "rectanglelabels"),
        ([rectangle(type="ellipselabels"), text("answer", "cup is [1].")], "ellipselabels"),
        ([choice("Too dark")], '"light", which may be the reason'),
        ([region(block(1)) | {"to_name": "second"}], "another one"),
        ([region(block(1)) | {"item_index": 1}], "another one"),
        ([region(np.zeros((12, 24), bool))], "no pixels"),
        ([polygons(block(1))[0] | {"value": {"points": [[1, 2], [3, 4]]}}], "3 to"),
        ([polygons(block(1))[0] | {"value": {"points": [[1, 2], [3, 4], ["x", 5]]}}], "pairs of numbers"),
        ([polygons(block(1))[0] | {"value": {"points": [[1, 2], [3, 4], [float("nan"), 5]]}}], "far outside"),
        ([polygons(block(1))[0] | {"image_rotation": 90}], "rotated"),
    ],
)
def test_what_is_not_understood_is_no_denial(items: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(UnreadableAnnotation, match=words):
        read_regions(items, CONFIG)


def test_two_labels_on_a_region_are_refused() -> None:
    item = region(block(1))
    item["value"]["brushlabels"] = ["Cup", "Book"]
    with pytest.raises(UnreadableAnnotation, match=r"several labels \(Cup, Book\)"):
        read_regions([item], CONFIG)


def test_other_regions_beside_the_masks_are_no_hindrance() -> None:
    others = [rectangle("Sign"), choice("Day"), text("answer", "cup is [1]."), {"type": "relation"}]
    far = [
        region(block(3)) | {"id": "far", "item_index": 1},
        region(block(3)) | {"id": "b", "to_name": "second"},
    ]
    (only,) = read_regions([*others, *far, region(block(1))], CONFIG)
    assert (only.mask == block(1)).all()


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_region_in_two_items_is_read_as_one(with_mask: bool) -> None:
    """A `<Brush>` beside `<Labels>`: Label Studio repeats the mask in the item of the labels."""
    shape = region(block(1)) | {"type": "brush", "from_name": "brush"}
    del shape["value"]["brushlabels"]
    value = {"labels": ["Book"]} | (shape["value"] if with_mask else {})
    labels = shape | {"type": "labels", "from_name": "classes", "value": value}
    for items in ([shape, labels], [labels, shape], *([[labels]] if with_mask else [])):
        (only,) = read_regions([*items, choice("Broken", id=shape["id"])], CONFIG)
        assert only.label == "Book" and (only.mask == block(1)).all()


def test_two_masks_with_one_id_are_two_regions() -> None:
    first, second = region(block(0)), region(block(12)) | {"id": region(block(0))["id"]}
    masks = [found.mask for found in read_regions([first, second], CONFIG)]
    assert len(masks) == 2 and not np.array_equal(masks[0], masks[1])


def test_texts_of_our_own_controls_are_an_empty_annotation() -> None:
    assert read_regions([text("answer", "cup is [1].")], ASKING) == []
    assert read_regions([text("prompt", "the cup"), text("answer", "cup is [1].")], ASKING) == []
    with pytest.raises(UnreadableAnnotation, match='"notes"'):
        read_regions([text("notes", "no cup")], ASKING)


def test_recorded_values_without_masks_are_no_denial() -> None:
    body = event("annotation_created_skipped")
    with pytest.raises(UnreadableAnnotation, match="prompt_mode"):
        read_regions(body["annotation"]["result"], read_config(body["project"]["label_config"]))


def test_masks_of_different_images_are_refused() -> None:
    other = region(block(1, shape=(10, 24)), index=1)
    with pytest.raises(UnreadableAnnotation, match="different sizes"):
        read_regions([region(block(1)), other], CONFIG)


def test_nothing_is_changed_in_place() -> None:
    items = [region(block(1))]
    before = copy.deepcopy(items)
    compare(read_regions(items, CONFIG), [PROPOSED], CONFIG)
    assert items == before
    assert Region(None, block(1)).origin == "manual"
