"""The model's answer as Label Studio results: a mask for each target, and text for the answer control."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from backend.label_studio import brush_rle
from label_config import LabelConfig, map_label
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import from_rle, is_empty

Item = dict[str, Any]


def build_results(
    result: SegmentResult, config: LabelConfig, prompt: str, min_score: float = 0.0
) -> list[Item]:
    """A region for each target whose score is at least `min_score` and whose mask is not empty.

    The same target of the same job has the same id, so that an answer given again replaces its regions and
    does not double them. A phrase that names no label makes a region with an empty list of labels: Label
    Studio shows it unlabelled, for the annotator to name. `meta.pixellm` says where a region comes from,
    because Label Studio does not keep that for suggestions.
    """
    return [
        _region(result, config, prompt, index, target)
        for index, target in _shown(result, min_score)
        if not is_empty(target.mask)
    ]


def answer_text(result: SegmentResult, config: LabelConfig, min_score: float = 0.0) -> str:
    """What the annotator reads: the model's answer, its warnings, and why a target has no labelled region."""
    shown = [target for _, target in _shown(result, min_score)]
    empty = [target.phrase for target in shown if is_empty(target.mask)]
    unnamed = [
        target.phrase
        for target in shown
        if not is_empty(target.mask) and not map_label(target.phrase, config)
    ]
    sentences = [result.answer, *result.warnings]
    if empty:
        sentences.append(f"Nothing was found for: {_listed(empty)}.")
    if unnamed:
        sentences.append(f"No label of this project fits: {_listed(unnamed)}; choose one for each such mask.")
    if weak := len(result.targets) - len(shown):
        sentences.append(f"{weak} left out with a score below {min_score:g}.")
    return " ".join(sentence for sentence in sentences if sentence)


def answer_item(config: LabelConfig, text: str) -> list[Item]:
    """The result that shows `text` in the answer control; none if the config has no such control."""
    if config.answer is None:
        return []
    item = {
        "id": uuid4().hex[:10],
        "from_name": config.answer,
        "to_name": config.image.name,
        "type": "textarea",
        "value": {"text": [text]},
    }
    return [item]


def region_id(job: str, index: int) -> str:
    """The id of the region that shows a job's target."""
    return hashlib.sha1(f"{job}:{index}".encode(), usedforsecurity=False).hexdigest()[:10]


def _shown(result: SegmentResult, min_score: float) -> Iterator[tuple[int, TargetResult]]:
    return ((index, target) for index, target in enumerate(result.targets) if target.score >= min_score)


def _region(
    result: SegmentResult, config: LabelConfig, prompt: str, index: int, target: TargetResult
) -> Item:
    label = map_label(target.phrase, config)
    mask = from_rle(target.mask)
    if config.mask.kind == "brushlabels":
        value: Item = {"format": "rle", "rle": brush_rle.encode(mask)}
    else:
        value = {"imageDataURL": _bitmask(mask)}
    origin = {"job": result.job_id, "target": index, "prompt": prompt, "label": label}
    return {
        "id": region_id(result.job_id, index),
        "from_name": config.mask.name,
        "to_name": config.image.name,
        "type": config.mask.kind,
        "original_width": result.width,
        "original_height": result.height,
        "image_rotation": 0,
        "value": value | {config.mask.kind: [label] if label else []},
        "score": target.score,
        "origin": "prediction",
        "meta": {"text": [target.phrase], "pixellm": origin},
    }


def _bitmask(mask: np.ndarray) -> str:
    """A PNG of the mask as a data URL, black on transparent."""
    alpha = Image.fromarray(mask.astype(np.uint8) * 255)
    file = io.BytesIO()
    Image.merge("LA", (Image.new("L", alpha.size), alpha)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _listed(phrases: list[str]) -> str:
    return ", ".join(f'"{phrase}"' for phrase in dict.fromkeys(phrases))
