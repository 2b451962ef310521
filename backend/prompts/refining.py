"""Answers to points and boxes: the mask that is pointed at, corrected, under the same id; or a new mask."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict

from backend.prompts.pointing import DraftRegion, Pointing
from backend.prompts.regions import Prediction, ResultItem, answer_item, item_index_of, region_items
from backend.prompts.shapes import ITEM_ID_CHARS, region_values
from label_config import LabelConfig, ShapeControl, map_label
from worker.jobs.contract import CocoRLE, SegmentResult
from worker.jobs.masks import from_rle

# Label Studio saves a draft five seconds after the last change. Until then it sends the mask as it was.
DRAFT_DELAY_S = 8.0
MAX_REMEMBERED = 256


class LatestMasks:
    """The newest mask of each region, while Label Studio's draft may still hold the one before.

    Masks are kept as RLE: as arrays, those of large images would take gigabytes.
    """

    def __init__(self) -> None:
        self._masks: OrderedDict[tuple[int, str], tuple[float, CocoRLE, CocoRLE]] = OrderedDict()

    def current(self, task: int, region: str, draft: CocoRLE) -> CocoRLE:
        """Return the mask that the annotator sees.

        Args:
            task: The task's number.
            region: The region's id.
            draft: The region's mask as the draft has it.

        Returns:
            The latest corrected mask if it was made from the draft's mask a moment ago; else the draft's.
        """
        known = self._masks.get((task, region))
        if known is None:
            return draft
        made_at, source, latest = known
        is_pending = time.monotonic() < made_at + DRAFT_DELAY_S and source == draft
        return latest if is_pending else draft

    def remember(self, task: int, region: str, draft: CocoRLE, latest: CocoRLE) -> None:
        """Keep the corrected mask of a region, made while the draft had `draft`, for the next click."""
        self._masks[task, region] = time.monotonic(), draft, latest
        self._masks.move_to_end((task, region))
        while len(self._masks) > MAX_REMEMBERED:
            self._masks.popitem(last=False)


def name_of(region: DraftRegion | None) -> str:
    """Return the words for an object: the region's text, else its label, else "object"."""
    if region is not None:
        meta = region.item.get("meta")
        text = meta.get("text") if isinstance(meta, dict) else None
        for names in (text, list(region.labels)):
            if isinstance(names, list) and names and isinstance(names[0], str) and names[0].strip():
                return names[0].strip()
    return "object"


def build_refinement(
    result: SegmentResult, config: LabelConfig, pointing: Pointing, region: DraftRegion | None
) -> Prediction:
    """Make the prediction that shows a corrected or a new mask.

    Args:
        result: The worker's result; its only target is the mask.
        config: The project's labeling configuration, with at least one control for masks.
        pointing: What was pointed at.
        region: The region that is corrected; None for a new one.

    Returns:
        One region, under the id of the corrected one, and a sentence for the annotator. No region if nothing
        is left of the mask.
    """
    name = name_of(region)
    mask = from_rle(result.targets[0].mask)
    if not mask.any():
        return {"result": answer_item(config, f'Nothing is left of "{name}" after these points.')}
    score = result.targets[0].score
    if region is not None:
        control, labels = region.control, region.labels
        common: ResultItem = {**region.item, "score": score}
        sentence = f'"{name}" is corrected; accept it or point again.'
    else:
        control, label = _control_and_label(config, pointing)
        labels = (label,) if label else ()
        common = _new_region(result, config, score)
        sentence = f"A new mask from {_listed(pointing)}; accept it or point again."
        sentence += f' Its label is "{label}".' if label else " Choose a label for it."
    (value,) = region_values(mask, control.kind)
    items = list(region_items(control, labels, common | {"value": value}))
    return {"result": items + answer_item(config, sentence), "model_version": result.model_version}


def _listed(pointing: Pointing) -> str:
    """What a mask was made from: "a box and 3 points, 1 of them outside"."""
    count = len(pointing.clicks)
    points = "a point" if count == 1 else f"{count} points"
    if outside := sum(not click.positive for click in pointing.clicks):
        points += ", outside of it" if count == 1 else f", {outside} of them outside"
    return " and ".join(["a box"] * (pointing.box is not None) + [points] * (count > 0))


def _control_and_label(config: LabelConfig, pointing: Pointing) -> tuple[ShapeControl, str | None]:
    """Return the first control for masks that has the new mask's label, else the first one without label."""
    wanted = pointing.label or map_label("", config)
    for control in config.masks:
        if any(label.value == wanted for label in control.labels):
            return control, wanted
    return config.masks[0], None


def _new_region(result: SegmentResult, config: LabelConfig, score: float) -> ResultItem:
    identity = hashlib.sha1(result.job_id.encode(), usedforsecurity=False).hexdigest()
    region: ResultItem = {
        "id": identity[:ITEM_ID_CHARS],
        "to_name": config.image.name,
        "original_width": result.width,
        "original_height": result.height,
        "image_rotation": 0,
        "score": score,
    }
    return region | item_index_of(config)
