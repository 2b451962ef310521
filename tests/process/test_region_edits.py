"""Words that change masks, through backend, queue and worker."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from backend.label_studio import brush_rle
from support.backend import ask, masks, prompted, running_backend, said
from support.workers import Workers, eventually

TABLE = Path(__file__).parents[2] / "demo" / "samples" / "scene_table.jpg"
WIDTH, HEIGHT = 8, 6  # of the picture in the requests
JOB = "seg-" + "1" * 32


@pytest.fixture
def ready(workers: Workers) -> Workers:
    workers.start("patient", FOLLOWS_UP="0")
    eventually(lambda: any(s.state == "ready" for s in workers.queue.worker_status()), "a worker is ready")
    return workers


@pytest.fixture
def backend(redis_url: str, ready: Workers) -> Iterator[httpx.Client]:
    with running_backend(redis_url) as client:
        yield client


def block(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def region(name: str, mask: np.ndarray, phrase: str = "cup", target: int = 0) -> dict[str, Any]:
    """An accepted mask in a draft."""
    return {
        "id": name,
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "origin": "prediction",
        "meta": {
            "text": [phrase],
            "pixellm": {"job": JOB, "target": target, "prompt": "the cups", "label": "Circle"},
        },
        "value": {"format": "rle", "rle": brush_rle.encode(mask), "brushlabels": ["Circle"]},
    }


def say(client: httpx.Client, prompt: str, *draft: dict[str, Any]) -> dict[str, Any]:
    (prediction,) = ask(client, prompted(prompt, drafts=[{"result": list(draft)}] if draft else []))
    return dict(prediction)


def point(client: httpx.Client, x: float, y: float, *draft: dict[str, Any]) -> dict[str, Any]:
    """Click on a pixel."""
    body = prompted("", drafts=[{"result": list(draft)}])
    body["params"]["context"]["result"] = [
        {
            "id": "p",
            "from_name": "point",
            "to_name": "image",
            "type": "keypoint",
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "value": {"x": 100 * (x + 0.5) / WIDTH, "y": 100 * (y + 0.5) / HEIGHT, "width": 0.3},
        }
    ]
    (prediction,) = ask(client, body)
    return dict(prediction)


def decoded(item: dict[str, Any]) -> np.ndarray:
    return brush_rle.decode(item["value"]["rle"], HEIGHT, WIDTH)


def test_tighter_and_looser_keep_id_label_and_origin(backend: httpx.Client) -> None:
    before = region("a", block(1, 1, 5, 4))
    tighter = say(backend, "tighter", before)
    (changed,) = masks(tighter)
    assert np.array_equal(decoded(changed), block(1, 2, 5, 4))
    assert changed["id"] == "a" and changed["value"]["brushlabels"] == ["Circle"]
    assert changed["meta"] == before["meta"]
    assert said(tighter) == '"cup" is tighter now; say it again for more.'
    # What is proposed now is what "looser" is about, although the draft is as it was.
    looser = say(backend, "a bit bigger", before)
    assert np.array_equal(decoded(masks(looser)[0]), block(1, 2, 5, 5))


def test_several_masks_are_spoken_of_in_the_plural(backend: httpx.Client) -> None:
    cup, pot = region("a", block(4, 3, 8, 5)), region("b", block(0, 3, 3, 5), "teapot", target=1)
    grown = say(backend, "the whole thing", cup, pot)
    assert len(masks(grown)) == 2
    assert said(grown) == '"cup" and "teapot" were grown to whole objects; point at what does not belong.'


def test_an_answer_that_waits_can_be_changed(backend: httpx.Client) -> None:
    (proposed,) = masks(say(backend, "the circle"))
    (changed,) = masks(say(backend, "tighter"))
    assert changed["id"] == proposed["id"] and np.array_equal(decoded(changed), block(0, 1, 3, 2))
    assert changed["meta"] == proposed["meta"]


def test_something_is_taken_away(backend: httpx.Client, ready: Workers) -> None:
    before = region("a", block(0, 0, 8, 6))
    prediction = say(backend, "without the handle", before)
    (changed,) = masks(prediction)
    assert ready.seen() == ["the handle"]
    assert changed["id"] == "a" and np.array_equal(decoded(changed), ~block(0, 0, 3, 2))
    assert said(prediction).startswith('Without the "handle": "cup".')


@pytest.mark.parametrize(
    ("prompt", "mask", "reason"),
    [
        ("without the missing", block(0, 0, 8, 6), 'The model finds no "missing" in this image.'),
        ("without the spoon", block(4, 3, 8, 6), 'The "spoon" does not overlap "cup"'),
        ("without the spoon", block(0, 0, 3, 2), 'The model takes all of "cup" for "spoon"'),
        ("split it", block(0, 0, 3, 2), '"cup" is in one piece'),
        ("only the left one", block(0, 0, 3, 2), 'There is only "cup" to choose from'),
    ],
)
def test_what_cannot_be_done_is_said(
    backend: httpx.Client, prompt: str, mask: np.ndarray, reason: str
) -> None:
    prediction = say(backend, prompt, region("a", mask))
    assert masks(prediction) == [] and reason in said(prediction)


@pytest.mark.parametrize("prompt", ["delete the cup", "remove the cup", "Remove cups."])
def test_how_to_delete_a_mask_is_said(backend: httpx.Client, ready: Workers, prompt: str) -> None:
    prediction = say(backend, prompt, region("a", block(4, 3, 8, 6)))
    assert masks(prediction) == [] and ready.seen() == []
    assert said(prediction) == 'To delete "cup", select it and press Backspace. Nothing was changed.'


def test_how_to_delete_an_earlier_mask_is_said(backend: httpx.Client) -> None:
    """The cup was accepted before; the last answer is the book."""
    cup, book = region("a", block(4, 3, 8, 6)), region("b", block(0, 4, 3, 6), "book")
    book["meta"]["pixellm"]["job"] = "seg-" + "2" * 32
    prediction = say(backend, "remove the cup", cup, book)
    assert masks(prediction) == []
    assert 'To delete "cup", select it and press Backspace.' in said(prediction)


def test_a_mask_that_waits_is_rejected_not_deleted(backend: httpx.Client) -> None:
    (proposed,) = masks(say(backend, "the circle"))
    prediction = say(backend, "delete the circle")
    assert [item["id"] for item in masks(prediction)] == [proposed["id"]]
    assert "waits: reject it with the cross" in said(prediction)


def test_without_a_mask_it_is_said(backend: httpx.Client, ready: Workers) -> None:
    prediction = say(backend, "tighter")
    assert masks(prediction) == [] and "There is no mask to change" in said(prediction)
    assert ready.seen() == []


def test_after_pointing_something_is_added_to_that_region(backend: httpx.Client) -> None:
    draft = region("a", block(4, 3, 8, 6))
    point(backend, 3, 5, draft)
    point(backend, 4, 4, draft)
    prediction = say(backend, "also the lid", draft)
    (changed,) = masks(prediction)
    assert changed["id"] == "a"
    assert np.array_equal(decoded(changed), block(4, 3, 8, 6) | block(0, 0, 3, 2))
    assert said(prediction).startswith(
        'The "lid" now belongs to "cup"; the changed mask waits to be accepted.'
    )


@pytest.mark.parametrize("between", ["the circle", "the missing", "tighter", "without the missing"])
def test_only_right_after_pointing_something_is_joined(backend: httpx.Client, between: str) -> None:
    draft = region("a", block(4, 3, 8, 6))
    point(backend, 3, 5, draft)
    say(backend, between, draft)
    prediction = say(backend, "also the lid", draft)
    (lid,) = masks(prediction)
    assert lid["id"] != "a"
    assert "The new mask waits to be accepted" in said(prediction)


def test_after_a_prompt_something_is_a_region_of_its_own(backend: httpx.Client, ready: Workers) -> None:
    (circle,) = masks(say(backend, "the circle"))
    (lid,) = masks(say(backend, "also the lid", circle))
    assert lid["id"] != circle["id"] and ready.seen() == ["the circle", "the lid"]


def test_the_whole_grows_to_the_models_mask_or_what_looks_alike(
    backend: httpx.Client, ready: Workers
) -> None:
    (whole,) = masks(say(backend, "the whole cup", region("a", block(0, 0, 1, 2))))
    assert whole["id"] == "a" and np.array_equal(decoded(whole), block(0, 0, 3, 2))
    (grown,) = masks(say(backend, "the whole thing", region("b", block(4, 3, 8, 5))))
    assert np.array_equal(decoded(grown), block(4, 3, 8, 6))
    # The noun is of something else.
    assert (
        "the whole bus"
        in masks(say(backend, "the whole bus", region("c", block(0, 0, 1, 2))))[0]["meta"]["text"]
    )


def test_a_mask_is_split_into_its_parts(backend: httpx.Client) -> None:
    before = region("a", block(0, 0, 4, 3) | block(6, 4, 8, 6))
    prediction = say(backend, "split it", before)
    first, second = masks(prediction)
    assert np.array_equal(decoded(first), block(0, 0, 4, 3)) and first["id"] == "a"
    assert np.array_equal(decoded(second), block(6, 4, 8, 6)) and second["id"] != "a"
    assert first["meta"] == second["meta"] == before["meta"]
    assert said(prediction) == "Split into 2 masks, one for each connected part."


def test_a_refusal_does_not_withdraw_the_masks_that_wait(backend: httpx.Client) -> None:
    (proposed,) = masks(say(backend, "the circle"))
    refused = say(backend, "without the missing")
    (still,) = masks(refused)
    assert still["id"] == proposed["id"] and still["value"] == proposed["value"]
    assert "Nothing was changed" in said(refused)


def test_of_several_masks_one_is_chosen(backend: httpx.Client, ready: Workers) -> None:
    left, right = region("a", block(0, 0, 3, 3)), region("b", block(5, 3, 8, 6), target=1)
    accepted = say(backend, "only the left one", left, right)
    assert masks(accepted) == [] and "Backspace" in said(accepted) and ready.seen() == []


def test_of_masks_that_wait_the_chosen_one_is_proposed_alone(backend: httpx.Client) -> None:
    """Nothing is to be learned of the others: that they are not wanted is no denial of them."""
    before = region("a", block(0, 0, 4, 3) | block(6, 4, 8, 6))
    _, second = masks(say(backend, "split it", before))
    prediction = say(backend, "only the right one", before)
    (chosen,) = masks(prediction)
    assert chosen["id"] == second["id"] and np.array_equal(decoded(chosen), decoded(second))
    assert chosen["meta"]["pixellm"]["job"] != JOB and "prompt" not in chosen["meta"]["pixellm"]
    assert chosen["meta"]["pixellm"]["label"] == "Circle"
    assert said(prediction) == '"cup" cannot be withdrawn in words; select it and press Backspace.'


def test_everything_asks_for_each_label(backend: httpx.Client, ready: Workers) -> None:
    prediction = say(backend, "Everything!")
    asked = ready.seen()
    assert len(asked) > 1 and all(prompt.startswith("Segment the ") for prompt in asked)
    assert len({item["id"] for item in masks(prediction)}) == len(asked)
    assert {item["meta"]["pixellm"]["prompt"] for item in masks(prediction)} == set(asked)
    assert all(f"[{number}]" in said(prediction) for number in range(1, len(asked) + 1))


def test_of_masks_of_which_none_is_accepted_one_is_chosen(backend: httpx.Client) -> None:
    say(backend, "everything")
    prediction = say(backend, "the largest one")
    assert len({item["id"] for item in masks(prediction)}) == 1
    told = "If you have accepted others already, select them and press Backspace."
    assert said(prediction).startswith("Only ") and said(prediction).endswith(told)


def test_everything_but_one_label_is_no_change_of_what_is_there(
    backend: httpx.Client, ready: Workers
) -> None:
    prediction = say(backend, "everything but the circle", region("a", block(0, 0, 3, 2)))
    asked = ready.seen()
    assert asked and "Segment the circle." not in asked and all("Segment the " in each for each in asked)
    assert len({item["id"] for item in masks(prediction)}) == len(asked)


def test_the_shipped_model_changes_its_own_masks(redis_url: str, workers: Workers) -> None:
    """Each step is about the mask of the step before, which waits to be accepted."""
    workers.run_module()
    eventually(
        lambda: any(s.state == "ready" for s in workers.queue.worker_status()), "a worker is ready", 120
    )
    image = f"data:image/jpeg;base64,{base64.b64encode(TABLE.read_bytes()).decode()}"

    with running_backend(redis_url) as client:

        def ask_about_table(prompt: str) -> tuple[np.ndarray, str, str]:
            (prediction,) = ask(client, prompted(prompt, data={"image": image}))
            (item,) = masks(prediction)
            size = item["original_height"], item["original_width"]
            return brush_rle.decode(item["value"]["rle"], *size), item["id"], said(prediction)

        book, name, _ = ask_about_table("the book")
        tighter, tighter_name, _ = ask_about_table("tighter")
        assert name == tighter_name
        assert not (tighter & ~book).any() and 0.85 < tighter.sum() / book.sum() < 1
        looser, _, _ = ask_about_table("Make it a bit looser, please.")
        assert not (tighter & ~looser).any() and looser.sum() > tighter.sum()
        whole, whole_name, _ = ask_about_table("the whole thing")
        assert whole_name == name and not (looser & ~whole).any()
        unknown, _, sentence = ask_about_table("without the handle")
        assert np.array_equal(unknown, whole)
        assert sentence == 'This model does not know "handle". Nothing was changed.'
        far, _, sentence = ask_about_table("without the banana")
        assert np.array_equal(far, whole) and "does not overlap" in sentence
