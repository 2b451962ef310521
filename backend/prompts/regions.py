"""From the model's answer to a Label Studio prediction: a region for each mask, and the answer's text.

`_regions` is where a target's phrase becomes a label of the project (`label_config.map_label`), and the label
decides which control its regions belong to.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from statistics import fmean
from typing import Any
from uuid import uuid4

from backend.prompts.shapes import ITEM_ID_CHARS, region_id, region_values
from label_config import LabelConfig, ShapeControl, map_label
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import from_rle, is_empty

MAX_SCORES = 5  # of targets that are left out, in a message

# One entry of a Label Studio `result` list: a region or a text.
ResultItem = dict[str, Any]
# A Label Studio prediction: `result`, `score`, `model_version`.
Prediction = dict[str, Any]


def build_prediction(
    result: SegmentResult,
    config: LabelConfig,
    prompt: str,
    min_score: float = 0.0,
    marked: frozenset[int] = frozenset(),
) -> Prediction:
    """Make the prediction that shows a result.

    Args:
        result: The model's answer and masks.
        config: The project's labeling configuration.
        prompt: The prompt that was answered.
        min_score: Targets with a lower score are left out, as `is_shown` says.
        marked: The indices of targets that the annotator has accepted already; they are left out.

    Returns:
        The regions, the answer's text if the configuration shows it, and the mean score of the regions.
    """
    regions = build_results(result, config, prompt, min_score, marked=marked)
    scores = region_scores(result, config, min_score)
    text = answer_text(result, config, min_score)
    if marked:
        text = (
            f"{text} {_listed([result.targets[index].phrase for index in sorted(marked)])}: marked already."
        )
    return {
        "result": regions + answer_item(config, text),
        "score": fmean(scores) if scores else 0.0,
        "model_version": result.model_version,
    }


def build_results(
    result: SegmentResult,
    config: LabelConfig,
    prompt: str,
    min_score: float = 0.0,
    label: str | None = None,
    marked: Container[int] = (),
) -> list[ResultItem]:
    """Make the regions of each target that is shown and whose mask is not empty.

    A target has one region, or a polygon for each part of its mask. The same target of the same job always
    has the same ids, so that regions of a repeated answer replace the earlier ones. A phrase that names no
    label makes a region with an empty list of labels: Label Studio shows it unlabelled, and the annotator
    chooses one. `meta.pixellm` says where a region comes from, because Label Studio does not keep that for
    suggestions.

    Args:
        result: The model's answer and masks.
        config: The project's labeling configuration.
        prompt: The prompt that was answered.
        min_score: Targets with a lower score are left out, as `is_shown` says.
        label: The label of every region; None: the one that its phrase names.
        marked: The indices of further targets that are left out.

    Returns:
        The regions, in the order of the targets.
    """
    return [
        item
        for index, target in enumerate(result.targets)
        if index not in marked and is_shown(target, config, min_score, label) and not is_empty(target.mask)
        for item in _regions(result, config, prompt, index, target, label or map_label(target.phrase, config))
    ]


def is_shown(target: TargetResult, config: LabelConfig, min_score: float, label: str | None = None) -> bool:
    """Whether a target's score is high enough to be shown.

    Args:
        target: The target.
        config: The project's labeling configuration; a control's own `model_score_threshold` counts first.
        min_score: The lowest score where the control names none.
        label: The target's label; None: the one that its phrase names.
    """
    return target.score >= config.min_score_for(label or map_label(target.phrase, config), min_score)


def hidden_targets(
    result: SegmentResult, config: LabelConfig, min_score: float, label: str | None = None
) -> frozenset[int]:
    """Return the indices of the targets that are not shown; the arguments are those of `build_results`."""
    return frozenset(
        index for index, target in enumerate(result.targets) if not is_shown(target, config, min_score, label)
    )


def region_scores(
    result: SegmentResult, config: LabelConfig, min_score: float = 0.0, label: str | None = None
) -> list[float]:
    """Return the score of each target that `build_results` makes regions of."""
    return [
        target.score
        for target in result.targets
        if is_shown(target, config, min_score, label) and not is_empty(target.mask)
    ]


def answer_text(
    result: SegmentResult, config: LabelConfig, min_score: float = 0.0, label: str | None = None
) -> str:
    """Return what the annotator reads: the answer, warnings, and why a target has no region or no label.

    The arguments are those of `build_results`.
    """
    shown = [target for target in result.targets if is_shown(target, config, min_score, label)]
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
    if hidden := hidden_targets(result, config, min_score, label):
        scores = ", ".join(f"{result.targets[index].score:.2f}" for index in sorted(hidden)[:MAX_SCORES])
        sentences.append(f"{len(hidden)} left out with too low a score ({scores}).")
    return " ".join(sentence for sentence in sentences if sentence)


def answer_item(config: LabelConfig, text: str) -> list[ResultItem]:
    """Return the result that shows `text` in the answer control; empty if there is no such control."""
    if config.answer is None:
        return []
    item = _text_item(config.answer, config.image.name, text)
    return [item | item_index_of(config) if config.answer_per_item else item]


def region_items(control: ShapeControl, labels: Sequence[str], region: ResultItem) -> Iterator[ResultItem]:
    """Yield the results that make up a region; a drawing control's labels are a result with the same id.

    Args:
        control: The control that the region belongs to.
        labels: The region's labels; may be empty.
        region: What its results have in common, and `value` without labels.
    """
    shape: ResultItem = region | {"from_name": control.name, "type": control.kind}
    if control.labels_name is None:
        yield shape | {"value": region["value"] | {control.kind: list(labels)}}
        return
    yield shape
    if labels:
        yield region | {"from_name": control.labels_name, "type": "labels", "value": {"labels": list(labels)}}


def item_index_of(config: LabelConfig) -> ResultItem:
    """Return the field of a result that says which of the task's images it is about; empty if it has one."""
    return {} if config.item_index is None else {"item_index": config.item_index}


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


def _text_item(control: str, image: str, text: str) -> ResultItem:
    return {
        "id": uuid4().hex[:ITEM_ID_CHARS],
        "from_name": control,
        "to_name": image,
        "type": "textarea",
        "value": {"text": [text]},
    }


def _regions(
    result: SegmentResult,
    config: LabelConfig,
    prompt: str,
    index: int,
    target: TargetResult,
    label: str | None,
) -> Iterator[ResultItem]:
    control = config.shape_for(label)
    values = region_values(from_rle(target.mask), control.kind)
    for part, value in enumerate(values):
        origin: ResultItem = {"job": result.job_id, "target": index, "prompt": prompt, "label": label}
        if control.kind.startswith("polygon"):
            origin |= {"part": part, "parts": len(values)}
        yield from region_items(
            control,
            [label] if label else [],
            {
                "id": region_id(result.job_id, index, control.kind, part),
                "to_name": config.image.name,
                "original_width": result.width,
                "original_height": result.height,
                "image_rotation": 0,
                "value": value,
                "score": target.score,
                "origin": "prediction",
                "meta": {"text": [target.phrase], "pixellm": origin},
            }
            | item_index_of(config),
        )


def _listed(phrases: list[str]) -> str:
    return ", ".join(f'"{phrase}"' for phrase in dict.fromkeys(phrases))
