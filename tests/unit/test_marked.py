"""What the annotator has accepted already is not proposed again."""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.label_studio.brush_rle import encode
from backend.prompts.marked import marked_targets
from backend.prompts.regions import build_prediction
from backend.prompts.request import Task
from backend.prompts.shapes import region_id
from label_config import read_config
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import to_rle

CONFIG = read_config(
    '<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" smart="true"/>'
    '<TextArea name="answer" toName="image"/><BrushLabels name="mask" toName="image">'
    '<Label value="Cup"/><Label value="Book"/></BrushLabels></View>'
)
JOB = "seg-" + "1" * 32
LEFT, RIGHT = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
LEFT[:, :4] = RIGHT[:, 4:] = True


def answered(*targets: tuple[str, np.ndarray]) -> SegmentResult:
    return SegmentResult(
        job_id=JOB,
        answer="cup is [1].",
        targets=tuple(
            TargetResult(phrase=phrase, score=0.9, box=(0, 0, 8, 6), mask=to_rle(mask))
            for phrase, mask in targets
        ),
        width=8,
        height=6,
        model_version="m",
        timings={},
    )


def opened(mask: np.ndarray, label: str, region: str = "accepted") -> Task:
    item: dict[str, Any] = {
        "id": region,
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 8,
        "original_height": 6,
        "value": {"format": "rle", "rle": encode(mask), "brushlabels": [label]},
    }
    return Task(id=1, data={"image": "data:,"}, drafts=[{"result": [item], "updated_at": "2026-01-01"}])


def test_the_same_mask_under_the_same_label_is_left_out() -> None:
    result = answered(("cup", LEFT), ("book", RIGHT))
    marked = marked_targets(result, opened(LEFT, "Cup"), CONFIG)
    assert marked == {0}
    items = build_prediction(result, CONFIG, "the cup and the book", marked=marked)["result"]
    masks = [item for item in items if item["type"] == "brushlabels"]
    assert [item["value"]["brushlabels"] for item in masks] == [["Book"]]
    assert '"cup": marked already.' in items[-1]["value"]["text"][0]


def test_another_label_another_mask_and_the_targets_own_region_stay() -> None:
    result = answered(("cup", LEFT))
    assert not marked_targets(result, opened(LEFT, "Book"), CONFIG)
    assert not marked_targets(result, opened(RIGHT, "Cup"), CONFIG)
    assert not marked_targets(result, opened(LEFT, "Cup", region_id(JOB, 0)), CONFIG)
    assert not marked_targets(result, Task(id=1, data={}), CONFIG)
