"""Points and boxes in configurations with other controls than one for brush masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.corrections.annotation import UnreadableAnnotation, read_regions
from backend.label_studio import bitmask, brush_rle
from backend.prompts.pointing import Pointing, draft_regions, read_pointing, region_pointed_at
from backend.prompts.refining import build_refinement, name_of
from backend.prompts.request import Task
from label_config import LabelConfig, read_config
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import to_rle

HEIGHT, WIDTH = 6, 8
TOOLS = (
    '<KeyPoint name="point" toName="image" smart="true"/><Rectangle name="box" toName="image" smart="true"/>'
)
LABELS = '<Labels name="labels" toName="image"><Label value="Cup"/><Label value="Book"/></Labels>'


def config(*tags: str, image: str = 'value="$image"') -> LabelConfig:
    return read_config(f'<View><Image name="image" {image}/>{"".join(tags)}{TOOLS}</View>')


def control(kind: str, name: str, *labels: str) -> str:
    own = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<{kind} name="{name}" toName="image">{own}</{kind}>'


def block(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def item(control: str, kind: str, value: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": "region-1",
        "from_name": control,
        "to_name": "image",
        "type": kind,
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": value,
        **fields,
    }


def point(x: float, y: float, value: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    place = {"x": 100 * (x + 0.5) / WIDTH, "y": 100 * (y + 0.5) / HEIGHT}
    return item("point", "keypoint", place | (value or {}), **fields)


def task(*items: dict[str, Any]) -> Task:
    return Task(id=1, data={}, drafts=[{"result": list(items)}])


def pointed(config: LabelConfig, *items: dict[str, Any]) -> Pointing:
    pointing = read_pointing(items, config)
    assert pointing is not None
    return pointing


def refined(
    config: LabelConfig, pointing: Pointing, *draft: dict[str, Any], mask: np.ndarray
) -> list[dict[str, Any]]:
    """The regions of the answer when the model's mask is `mask`."""
    target = TargetResult(phrase="", score=0.5, box=(0, 0, 1, 1), mask=to_rle(mask))
    result = SegmentResult(
        job_id="seg-1", answer="", targets=(target,), width=WIDTH, height=HEIGHT, model_version="mini"
    )
    region = region_pointed_at(pointing, task(*draft), config)
    items: list[dict[str, Any]] = build_refinement(result, config, pointing, region)["result"]
    return items


def test_a_bitmask_is_corrected_as_a_bitmask() -> None:
    bitmasks = config(control("BitmaskLabels", "mask", "Cup", "Book"))
    value = {"imageDataURL": bitmask.encode(block(1, 1, 4, 4)), "bitmasklabels": ["Book"]}
    draft = item("mask", "bitmasklabels", value)
    assert [region.mask.sum() for region in draft_regions(task(draft), bitmasks)] == [9]
    (region,) = refined(bitmasks, pointed(bitmasks, point(2, 2)), draft, mask=block(1, 1, 5, 5))
    assert (region["id"], region["type"]) == ("region-1", "bitmasklabels")
    assert region["value"]["bitmasklabels"] == ["Book"]
    assert np.array_equal(bitmask.decode(region["value"]["imageDataURL"], HEIGHT, WIDTH), block(1, 1, 5, 5))


def test_a_damaged_bitmask_in_the_draft_is_left_out() -> None:
    bitmasks = config(control("BitmaskLabels", "mask", "Cup"))
    for url in ("data:image/png;base64,AAAA", "", 3):
        assert not [*draft_regions(task(item("mask", "bitmasklabels", {"imageDataURL": url})), bitmasks)]


@pytest.mark.parametrize("has_own_item", [True, False], ids=["two results", "only the labels' result"])
def test_a_mask_with_labels_beside_stays_two_results(has_own_item: bool) -> None:
    beside = config('<Brush name="brush" toName="image"/>', LABELS)
    value = {"format": "rle", "rle": brush_rle.encode(block(1, 1, 4, 4))}
    labels = item("labels", "labels", value | {"labels": ["Book"]})
    draft = [item("brush", "brush", value), labels] if has_own_item else [labels]
    assert len([*draft_regions(task(*draft), beside)]) == 1
    region = region_pointed_at(pointed(beside, point(2, 2)), task(*draft), beside)
    assert name_of(region) == "Book"
    shape, label = refined(beside, pointed(beside, point(2, 2)), *draft, mask=block(1, 1, 5, 5))
    assert (shape["id"], shape["from_name"], shape["type"]) == ("region-1", "brush", "brush")
    assert np.array_equal(brush_rle.decode(shape["value"]["rle"], HEIGHT, WIDTH), block(1, 1, 5, 5))
    assert (label["id"], label["from_name"], label["value"]) == ("region-1", "labels", {"labels": ["Book"]})


def test_a_new_mask_goes_to_the_control_for_masks_that_has_its_label() -> None:
    several = config(
        control("PolygonLabels", "outline", "Leaf"),
        control("BrushLabels", "first", "Cup", "Other"),
        control("BitmaskLabels", "second", "Book"),
    )
    made = []
    for label in ("Cup", "Book", "Leaf", "Nothing"):
        pointing = pointed(several, point(2, 2, {"labels": [label]}))
        (region,) = refined(several, pointing, mask=block(1, 1, 3, 3))
        made.append((region["from_name"], region["value"][region["type"]]))
    assert made == [("first", ["Cup"]), ("second", ["Book"]), ("first", ["Other"]), ("first", ["Other"])]


def test_a_label_that_only_a_polygon_has_is_no_label_of_a_mask() -> None:
    several = config(
        control("BrushLabels", "mask", "Cup", "Book"), control("PolygonLabels", "outline", "Other")
    )
    (region,) = refined(several, pointed(several, point(2, 2)), mask=block(1, 1, 3, 3))
    assert (region["from_name"], region["value"]["brushlabels"]) == ("mask", [])


def test_of_several_images_the_one_pointed_at_is_meant() -> None:
    pages = config(control("BrushLabels", "mask", "Cup"), image='valueList="$pages"')
    value = {"format": "rle", "rle": brush_rle.encode(block(1, 1, 4, 4)), "brushlabels": ["Cup"]}
    draft = item("mask", "brushlabels", value, item_index=0)
    pointing = pointed(pages, point(7, 5, item_index=0), point(2, 2, item_index=1))
    assert (pointing.item_index, len(pointing.clicks)) == (1, 1)
    second = pages.for_task({"pages": ["a.jpg", "b.jpg"]}, pointing.item_index)
    (new,) = refined(second, pointing, draft, mask=block(2, 2, 3, 3))
    assert (new["id"] != "region-1", new["item_index"]) == (True, 1)
    first = pages.for_task({"pages": ["a.jpg", "b.jpg"]}, 0)
    (corrected,) = refined(first, pointed(first, point(2, 2)), draft, mask=block(1, 1, 5, 5))
    assert (corrected["id"], corrected["item_index"]) == ("region-1", 0)


def test_a_point_left_over_beside_masks_is_no_region() -> None:
    brush = config(control("BrushLabels", "mask", "Cup"))
    value = {"format": "rle", "rle": brush_rle.encode(block(1, 1, 4, 4)), "brushlabels": ["Cup"]}
    mask, left_over = item("mask", "brushlabels", value), point(2, 2, id="point-1")
    assert [region.label for region in read_regions([mask, left_over], brush)] == ["Cup"]
    with pytest.raises(UnreadableAnnotation, match="keypoint"):
        read_regions([left_over], brush)
    with pytest.raises(UnreadableAnnotation, match="keypoint"):
        read_regions([mask, left_over | {"from_name": "another"}], brush)
