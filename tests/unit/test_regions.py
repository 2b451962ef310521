"""The model's answer as Label Studio results."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backend.corrections.annotation import read_regions
from backend.label_studio import brush_rle
from backend.label_studio.polygons import from_polygon
from backend.prompts.regions import answer_item, answer_text, build_prediction, build_results
from backend.prompts.shapes import region_id, region_ids, without_speckles
from benchmarks.regions import measure
from label_config import LabelConfig, read_config
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import from_rle, to_rle

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "predict_response.json").read_text())
SIZE = (48, 64)


def config(kind: str = "BrushLabels", labels: tuple[str, ...] = ("Cup", "Plate")) -> LabelConfig:
    tags = "".join(f'<Label value="{label}"/>' for label in labels)
    return read_config(
        f'<View><Image name="image" value="$image"/><{kind} name="mask" toName="image">{tags}</{kind}>'
        '<TextArea name="answer" toName="image" editable="false" smart="false"/></View>'
    )


def square(side: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[3 : 3 + side, 5 : 5 + side] = True
    return mask


def segmented(*targets: tuple[str, np.ndarray, float], **changes: Any) -> SegmentResult:
    height, width = targets[0][1].shape if targets else SIZE
    return SegmentResult(
        job_id=changes.pop("job_id", "seg-1"),
        answer="It is a cup.",
        targets=tuple(
            TargetResult(phrase=phrase, score=score, box=(0, 0, 1, 1), mask=to_rle(mask))
            for phrase, mask, score in targets
        ),
        width=width,
        height=height,
        model_version="pixellm-mini-0",
        **changes,
    )


def shape_of(item: Any) -> Any:
    """Keys and types, as deep as they go; a list has the shape of its first entry."""
    if isinstance(item, dict):
        return {key: shape_of(value) for key, value in item.items()}
    if isinstance(item, list):
        return [shape_of(entry) for entry in item[:1]]
    return type(item)


def test_regions_and_answer_have_the_shape_that_label_studio_took() -> None:
    result = segmented(("the cup", square(9), 0.95))
    *regions, answer = build_results(result, config(), "cups") + answer_item(config(), "It is a cup.")
    *recorded, recorded_answer = RECORDED["results"][0]["result"]
    assert shape_of(answer) == shape_of(recorded_answer)
    for region in regions:
        assert set(region.pop("meta")) == {"text", "pixellm"}
        assert shape_of(region) == shape_of(recorded[0])
    assert len(regions) == 1


def test_what_a_region_says() -> None:
    result = segmented(("two plates", square(4), 0.5), ("the red cup", square(9), 0.75))
    first, second = build_results(result, config(), "cups and plates")
    assert second["value"]["brushlabels"] == ["Cup"]
    assert (second["from_name"], second["to_name"], second["type"]) == ("mask", "image", "brushlabels")
    assert (second["original_width"], second["original_height"], second["image_rotation"]) == (64, 48, 0)
    assert (second["score"], second["origin"]) == (0.75, "prediction")
    assert second["meta"] == {
        "text": ["the red cup"],
        "pixellm": {"job": "seg-1", "target": 1, "prompt": "cups and plates", "label": "Cup"},
    }
    assert first["value"]["brushlabels"] == ["Plate"]
    json.dumps([first, second])


@given(arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_a_brush_region_holds_the_mask(mask: np.ndarray) -> None:
    regions = build_results(segmented(("cup", mask, 0.9)), config(), "cup")
    if not mask.any():
        assert regions == []
        return
    region = regions[0]
    back = brush_rle.decode(region["value"]["rle"], region["original_height"], region["original_width"])
    assert np.array_equal(back, mask)


def test_a_bitmask_region_is_black_on_transparent() -> None:
    mask = square(9)
    (region,) = build_results(segmented(("cup", mask, 0.9)), config("BitmaskLabels"), "cup")
    assert region["type"] == "bitmasklabels"
    assert set(region["value"]) == {"imageDataURL", "bitmasklabels"}
    assert region["value"]["bitmasklabels"] == ["Cup"]
    head, _, data = region["value"]["imageDataURL"].partition(",")
    rgba = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
    assert head == "data:image/png;base64"
    assert np.array_equal(rgba[..., 3], mask * 255) and not rgba[..., :3].any()


def shapes(*controls: str) -> LabelConfig:
    return read_config(f'<View><Image name="image" value="$image"/>{"".join(controls)}</View>')


def control(tag: str, *labels: str, name: str = "shape") -> str:
    inside = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<{tag} name="{name}" toName="image">{inside}</{tag}>'


def test_a_rectangle_is_tight_around_the_mask() -> None:
    (region,) = build_results(
        segmented(("cup", square(9), 0.9)), shapes(control("RectangleLabels", "Cup")), "cup"
    )
    assert (region["type"], region["from_name"]) == ("rectanglelabels", "shape")
    assert region["value"] == {
        "x": 7.812,
        "y": 6.25,
        "width": 14.062,
        "height": 18.75,
        "rotation": 0,
        "rectanglelabels": ["Cup"],
    }


def test_each_part_of_a_mask_is_a_polygon() -> None:
    mask = square(9)
    mask[20:40, 30:50] = True
    large, small = build_results(
        segmented(("cup", mask, 0.9)), shapes(control("PolygonLabels", "Cup", "Plate")), "cup"
    )
    assert large["type"] == "polygonlabels" and large["value"]["closed"] is True
    assert large["value"]["polygonlabels"] == small["value"]["polygonlabels"] == ["Cup"]
    both = from_polygon(large["value"]["points"], *SIZE) | from_polygon(small["value"]["points"], *SIZE)
    assert (both == mask).all()
    assert [region["meta"]["pixellm"]["part"] for region in (large, small)] == [0, 1]
    assert {region["meta"]["pixellm"]["parts"] for region in (large, small)} == {2}
    assert large["id"] != small["id"] and {large["id"], small["id"]} <= set(region_ids("seg-1", 0))


def test_the_score_counts_targets_and_not_polygons() -> None:
    two = square(9)
    two[20:40, 30:50] = True
    result = segmented(("cup", two, 0.9), ("plate", square(9), 0.5))
    prediction = build_prediction(result, shapes(control("PolygonLabels", "Cup", "Plate")), "all")
    assert len(prediction["result"]) == 3 and prediction["score"] == pytest.approx(0.7)


def test_the_label_decides_about_the_control() -> None:
    config = shapes(
        control("RectangleLabels", "Sign", "Cup", name="box"),
        control("BrushLabels", "Cup", name="first"),
        control("BrushLabels", "Plate", name="second"),
    )
    result = segmented(
        ("a sign", square(9), 0.9),
        ("cup", square(9), 0.9),
        ("plate", square(9), 0.9),
        ("ufo", square(9), 0.9),
    )
    regions = build_results(result, config, "all")
    assert [region["from_name"] for region in regions] == ["box", "first", "second", "first"]
    assert regions[0]["id"] != region_id("seg-1", 0) and regions[1]["id"] == region_id("seg-1", 1)


@pytest.mark.parametrize(
    ("tag", "kind"), [("Brush", "brush"), ("Bitmask", "bitmask"), ("Polygon", "polygon")]
)
def test_the_label_of_a_drawing_control_is_an_item_of_its_own(tag: str, kind: str) -> None:
    config = shapes(f'<{tag} name="draw" toName="image"/>', control("Labels", "Cup", "Plate", name="classes"))
    result = segmented(("cup", square(9), 0.9), ("ufo", square(9), 0.9))
    shape, label, unlabelled = build_results(result, config, "all")
    assert (shape["type"], shape["from_name"]) == (kind, "draw") and "labels" not in shape["value"]
    assert (label["type"], label["from_name"]) == ("labels", "classes")
    assert label["value"] == {"labels": ["Cup"]}
    assert label["id"] == shape["id"] != unlabelled["id"]
    read, other = read_regions([shape, label, unlabelled], config)
    assert (read.label, other.label) == ("Cup", None) and (read.mask == square(9)).all()


def test_regions_say_which_of_several_images_they_are_on() -> None:
    config = read_config(
        '<View><Image name="image" valueList="$pages"/>'
        '<TextArea name="answer" toName="image" perItem="true"/>'
        f"{control('BrushLabels', 'Cup')}</View>"
    ).for_task({"pages": ["a", "b"]}, 1)
    *_, region, answer = build_prediction(segmented(("cup", square(9), 0.9)), config, "cup")["result"]
    assert region["item_index"] == answer["item_index"] == 1


def test_speckles_and_pinholes_are_removed_where_that_is_set() -> None:
    mask = square(20)
    mask[8, 8], mask[40, 60] = False, True
    result = segmented(("cup", mask, 0.9), ("plate", square(1), 0.9))
    assert without_speckles(result, 0) is result
    cup, plate = without_speckles(result, 2 / mask.size).targets
    assert (from_rle(cup.mask) == square(20)).all() and cup.box == (5, 3, 25, 23)
    assert not from_rle(plate.mask).any()


def test_ids_are_those_of_job_and_target() -> None:
    targets = [("cup", square(4), 0.9), ("cup", square(9), 0.9)]

    def ids(*chosen: tuple[str, np.ndarray, float], job_id: str = "seg-1", least: float = 0.0) -> list[str]:
        result = segmented(*chosen, job_id=job_id)
        return [region["id"] for region in build_results(result, config(), "cups", least)]

    assert ids(*targets) == ids(*targets)
    assert len(set(ids(*targets) + ids(*targets, job_id="seg-2"))) == 4
    weak_first = [("cup", square(4), 0.1), targets[1]]
    assert ids(*weak_first, least=0.5) == ids(*targets)[1:]


def test_a_phrase_without_a_label_is_an_unlabelled_region_that_the_answer_names() -> None:
    result = segmented(("dragon", square(4), 0.9), ("cup", square(4), 0.9))
    dragon, cup = build_results(result, config(), "all")
    assert dragon["value"]["brushlabels"] == [] and dragon["meta"]["pixellm"]["label"] is None
    assert cup["value"]["brushlabels"] == ["Cup"]
    text = answer_text(result, config())
    assert text == 'It is a cup. No label of this project fits: "dragon"; choose one for each such mask.'


def test_empty_masks_make_no_region_and_are_named() -> None:
    result = segmented(("cup", square(0), 0.9), ("plate", square(4), 0.9))
    (plate,) = build_results(result, config(), "all")
    assert plate["meta"]["pixellm"]["target"] == 1
    assert answer_text(result, config()) == 'It is a cup. Nothing was found for: "cup".'


@pytest.mark.parametrize(("least", "regions"), [(0.0, 2), (0.4, 2), (0.5, 1), (1.0, 0)])
def test_weak_targets_are_left_out_and_counted(least: float, regions: int) -> None:
    result = segmented(("cup", square(4), 0.4), ("plate", square(4), 0.9))
    assert len(build_results(result, config(), "all", least)) == regions
    assert ("left out" in answer_text(result, config(), least)) == (regions < 2)


def test_warnings_are_part_of_the_answer() -> None:
    assert answer_text(segmented(warnings=("Shortened.",)), config()) == "It is a cup. Shortened."


def test_no_answer_control_no_answer_item() -> None:
    mask = '<BrushLabels name="mask" toName="image"><Label value="Cup"/></BrushLabels>'
    silent = read_config(f'<View><Image name="image" value="$image"/>{mask}</View>')
    assert answer_item(silent, "It is a cup.") == []
    assert answer_item(config(), "It is a cup.")[0]["value"] == {"text": ["It is a cup."]}


@pytest.mark.slow
def test_thirty_masks_on_twelve_megapixels_stay_within_the_documented_size() -> None:
    sizes = {row.control: row.megabytes for row in measure()}
    limits = {"BrushLabels": 2, "BitmaskLabels": 0.6, "PolygonLabels": 0.2, "RectangleLabels": 0.05}
    assert {control for control, limit in limits.items() if sizes[control] > limit} == set()
