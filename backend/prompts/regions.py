"""From the model's answer to a Label Studio prediction: a region for each mask, and the answer's text.

`_region` is where a target's phrase becomes a label of the project (`label_config.map_label`).
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from statistics import fmean
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from backend.label_studio import brush_rle
from backend.label_studio.brush_rle import Mask
from label_config import LabelConfig, map_label
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import from_rle, is_empty

ITEM_ID_CHARS = 10  # as Label Studio's own ids

# One entry of a Label Studio `result` list: a region or a text.
ResultItem = dict[str, Any]
# A Label Studio prediction: `result`, `score`, `model_version`.
Prediction = dict[str, Any]


def build_prediction(
    result: SegmentResult, config: LabelConfig, prompt: str, min_score: float = 0.0
) -> Prediction:
    """Make the prediction that shows a result.

    Args:
        result: The model's answer and masks.
        config: The project's labeling configuration.
        prompt: The prompt that was answered.
        min_score: Targets with a lower score are left out.

    Returns:
        The regions, the answer's text if the configuration shows it, and the mean score of the regions.
    """
    regions = build_results(result, config, prompt, min_score)
    scores = [region["score"] for region in regions]
    return {
        "result": regions + answer_item(config, answer_text(result, config, min_score)),
        "score": fmean(scores) if scores else 0.0,
        "model_version": result.model_version,
    }


def build_results(
    result: SegmentResult,
    config: LabelConfig,
    prompt: str,
    min_score: float = 0.0,
    label: str | None = None,
) -> list[ResultItem]:
    """Make a region for each target whose score is at least `min_score` and whose mask is not empty.

    The same target of the same job always has the same id, so that regions of a repeated answer replace the
    earlier ones. A phrase that names no label makes a region with an empty list of labels: Label Studio shows
    it unlabelled, and the annotator chooses one. `meta.pixellm` says where a region comes from, because Label
    Studio does not keep that for suggestions.

    Args:
        result: The model's answer and masks.
        config: The project's labeling configuration.
        prompt: The prompt that was answered.
        min_score: Targets with a lower score are left out.
        label: The label of every region; None: the one that its phrase names.

    Returns:
        The regions, in the order of the targets.
    """
    return [
        _region(result, config, prompt, index, target, label or map_label(target.phrase, config))
        for index, target in _targets_above(result, min_score)
        if not is_empty(target.mask)
    ]


def answer_text(
    result: SegmentResult, config: LabelConfig, min_score: float = 0.0, label: str | None = None
) -> str:
    """Return what the annotator reads: the answer, warnings, and why a target has no region or no label.

    The arguments are those of `build_results`.
    """
    shown = [target for _, target in _targets_above(result, min_score)]
    empty = [target.phrase for target in shown if is_empty(target.mask)]
    unlabelled = [
        target.phrase
        for target in shown
        if not is_empty(target.mask) and not (label or map_label(target.phrase, config))
    ]
    sentences = [result.answer, *result.warnings]
    if empty:
        sentences.append(f"Nothing was found for: {_listed(empty)}.")
    if unlabelled:
        sentences.append(
            f"No label of this project fits: {_listed(unlabelled)}; choose one for each such mask."
        )
    if hidden := len(result.targets) - len(shown):
        sentences.append(f"{hidden} left out with a score below {min_score:g}.")
    return " ".join(sentence for sentence in sentences if sentence)


def answer_item(config: LabelConfig, text: str) -> list[ResultItem]:
    """Return the result that shows `text` in the answer control; empty if there is no such control."""
    return [] if config.answer is None else [_text_item(config.answer, config.image.name, text)]


def answer_item_without_config(xml: str, text: str) -> ResultItem | None:
    """Return a result that shows `text` although the labeling configuration cannot be read.

    Args:
        xml: The configuration, which may be no XML at all.
        text: What to show.

    Returns:
        The result for the text area named `answer`; None if there is none.
    """
    for tag in re.findall(r"<TextArea\b[^<>]*>", xml, re.IGNORECASE):
        attributes = dict(re.findall(r"""(\w+)\s*=\s*["']([^"']*)["']""", tag.lower()))
        if attributes.get("name") == "answer" and "toname" in attributes:
            return _text_item("answer", attributes["toname"], text)
    return None


def mask_value(mask: Mask, config: LabelConfig, labels: list[str]) -> ResultItem:
    """Make the `value` of a region of the project's mask control.

    Args:
        mask: The mask, shape (height, width).
        config: The project's labeling configuration.
        labels: The region's labels; may be empty.
    """
    if config.mask.kind == "brushlabels":
        return {"format": "rle", "rle": brush_rle.encode(mask), config.mask.kind: labels}
    return {"imageDataURL": _png_url(mask), config.mask.kind: labels}


def region_id(job: str, index: int) -> str:
    """Return the id of the region that shows target `index` of a job."""
    return hashlib.sha1(f"{job}:{index}".encode(), usedforsecurity=False).hexdigest()[:ITEM_ID_CHARS]


def _text_item(control: str, image: str, text: str) -> ResultItem:
    return {
        "id": uuid4().hex[:ITEM_ID_CHARS],
        "from_name": control,
        "to_name": image,
        "type": "textarea",
        "value": {"text": [text]},
    }


def _targets_above(result: SegmentResult, min_score: float) -> Iterator[tuple[int, TargetResult]]:
    return ((index, target) for index, target in enumerate(result.targets) if target.score >= min_score)


def _region(
    result: SegmentResult,
    config: LabelConfig,
    prompt: str,
    index: int,
    target: TargetResult,
    label: str | None,
) -> ResultItem:
    value = mask_value(from_rle(target.mask), config, [label] if label else [])
    origin = {"job": result.job_id, "target": index, "prompt": prompt, "label": label}
    return {
        "id": region_id(result.job_id, index),
        "from_name": config.mask.name,
        "to_name": config.image.name,
        "type": config.mask.kind,
        "original_width": result.width,
        "original_height": result.height,
        "image_rotation": 0,
        "value": value,
        "score": target.score,
        "origin": "prediction",
        "meta": {"text": [target.phrase], "pixellm": origin},
    }


def _png_url(mask: Mask) -> str:
    """A PNG of the mask as a data URL, black on transparent."""
    alpha = Image.fromarray(mask.astype(np.uint8) * 255)
    file = io.BytesIO()
    Image.merge("LA", (Image.new("L", alpha.size), alpha)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _listed(phrases: list[str]) -> str:
    return ", ".join(f'"{phrase}"' for phrase in dict.fromkeys(phrases))
