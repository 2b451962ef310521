"""Points and boxes in the editor, through backend, queue and worker."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from backend.label_studio import brush_rle
from support.backend import ask, masks, prompted, running_backend, said
from support.workers import Workers, eventually

WIDTH, HEIGHT = 8, 6  # of the picture in the requests


@pytest.fixture
def ready(workers: Workers) -> Workers:
    workers.start("patient")
    eventually(lambda: any(s.state == "ready" for s in workers.queue.worker_status()), "a worker is ready")
    return workers


@pytest.fixture
def backend(redis_url: str, ready: Workers) -> Any:
    with running_backend(redis_url) as client:
        yield client


def point(x: float, y: float, positive: bool = True, **value: Any) -> dict[str, Any]:
    """A click in pixels, as Label Studio sends it."""
    return {
        "id": f"p{x}{y}",
        "from_name": "point",
        "to_name": "image",
        "type": "keypoint",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "is_positive": positive,
        "value": {"x": 100 * (x + 0.5) / WIDTH, "y": 100 * (y + 0.5) / HEIGHT, "width": 0.3} | value,
    }


def region(mask: np.ndarray, **fields: Any) -> dict[str, Any]:
    """A mask in a draft."""
    return {
        "id": "region-1",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "origin": "prediction",
        "meta": {"text": ["the cup"], "pixellm": {"job": "seg-1", "target": 0}},
        "value": {"format": "rle", "rle": brush_rle.encode(mask), "brushlabels": ["Circle"]},
        **fields,
    }


def block(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def pointed(client: httpx.Client, *items: dict[str, Any], drafts: list[Any] | None = None) -> dict[str, Any]:
    body = prompted("", drafts=[{"result": drafts or []}])
    body["params"]["context"]["result"] = list(items)
    (prediction,) = ask(client, body)
    return dict(prediction)


def decoded(item: dict[str, Any]) -> np.ndarray:
    return brush_rle.decode(item["value"]["rle"], HEIGHT, WIDTH)


def test_a_click_on_a_mask_corrects_that_region(backend: httpx.Client) -> None:
    before = block(1, 1, 4, 4)
    prediction = pointed(backend, point(2, 2), point(3, 3, positive=False), drafts=[region(before)])
    (corrected,) = masks(prediction)
    assert corrected["id"] == "region-1" and corrected["value"]["brushlabels"] == ["Circle"]
    assert corrected["meta"]["pixellm"] == {"job": "seg-1", "target": 0}
    expected = before.copy()
    expected[3, 3] = False
    assert np.array_equal(decoded(corrected), expected)
    assert said(prediction) == '"the cup" is corrected; accept it or point again.'


def test_a_click_beside_all_masks_begins_a_new_one(backend: httpx.Client) -> None:
    prediction = pointed(backend, point(6, 5), drafts=[region(block(0, 0, 2, 2))])
    (new,) = masks(prediction)
    assert new["id"] != "region-1" and "meta" not in new
    assert np.argwhere(decoded(new)).tolist() == [[5, 6]]


def test_a_new_mask_takes_the_active_label(backend: httpx.Client) -> None:
    (new,) = masks(pointed(backend, point(6, 5, labels=["Square"])))
    assert new["value"]["brushlabels"] == ["Square"]
    (other,) = masks(pointed(backend, point(6, 4, labels=["No such label"])))
    assert other["value"]["brushlabels"] != ["No such label"]


def test_a_box_begins_a_mask_within(backend: httpx.Client) -> None:
    box = point(0, 0) | {"type": "rectangle", "from_name": "box"}
    box["value"] = {"x": 25, "y": 0, "width": 50, "height": 50}
    (new,) = masks(pointed(backend, box))
    assert np.array_equal(decoded(new), block(2, 0, 6, 3))


def test_of_several_masks_the_smallest_under_the_click_is_meant(backend: httpx.Client) -> None:
    around, inside = region(block(0, 0, 8, 6), id="around"), region(block(2, 2, 4, 4), id="inside")
    (corrected,) = masks(pointed(backend, point(3, 3, positive=False), drafts=[around, inside]))
    assert corrected["id"] == "inside"


def test_strokes_that_are_not_merged_yet_count(backend: httpx.Client) -> None:
    stroke = {
        "type": "add",
        "relativePoints": [75, 75],
        "relativeStrokeWidth": 30,
    }
    drawn = region(block(0, 0, 1, 1))
    drawn["value"]["touches"] = [stroke]
    (corrected,) = masks(pointed(backend, point(6, 4, positive=False), drafts=[drawn]))
    assert corrected["id"] == "region-1" and decoded(corrected).sum() > 2


def test_clicks_add_up_although_the_draft_is_late(backend: httpx.Client) -> None:
    draft = [region(block(1, 1, 4, 4))]
    (first,) = masks(pointed(backend, point(1, 1, positive=False), drafts=draft))
    (second,) = masks(pointed(backend, point(3, 3, positive=False), drafts=draft))
    expected = block(1, 1, 4, 4)
    expected[1, 1] = expected[3, 3] = False
    assert first["id"] == second["id"] and np.array_equal(decoded(second), expected)


def test_nothing_left_is_said(backend: httpx.Client) -> None:
    prediction = pointed(backend, point(2, 2, positive=False), drafts=[region(block(2, 2, 3, 3))])
    assert masks(prediction) == [] and "Nothing is left" in said(prediction)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "keypoint", "to_name": "image"},
        point(1, 1) | {"to_name": "another"},
        point(1, 1) | {"original_width": 0},
        point(1, 1) | {"original_width": "wide"},
        point(1, 1) | {"value": {"x": None, "y": 3}},
        point(1, 1) | {"value": 3},
    ],
)
def test_unusable_points_are_no_request(backend: httpx.Client, item: dict[str, Any]) -> None:
    assert pointed(backend, item) == {"result": []}


def test_an_unreadable_mask_in_the_draft_is_left_out(backend: httpx.Client) -> None:
    broken = region(block(0, 0, 8, 6)) | {"value": {"format": "rle", "rle": [1, 2, 3]}}
    (new,) = masks(pointed(backend, point(2, 2), drafts=[broken, {"from_name": "mask"}, 3]))
    assert new["id"] != "region-1"


@pytest.mark.parametrize("kind", ["PolygonLabels", "RectangleLabels"])
def test_where_there_are_no_masks_a_sentence_says_so(backend: httpx.Client, kind: str) -> None:
    body = prompted("", drafts=[])
    body["label_config"] = body["label_config"].replace("BrushLabels", kind)
    body["params"]["context"]["result"] = [point(2, 2)]
    (prediction,) = ask(backend, body)
    assert masks(prediction) == [] and said(prediction).startswith("Points and boxes correct masks")
