"""Answers to points and boxes: the mask that is pointed at, corrected, under the same id; or a new mask."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Any

from backend.label_studio.brush_rle import Mask
from backend.prompts.pointing import DraftRegion, Pointing
from backend.prompts.regions import ITEM_ID_CHARS, Prediction, ResultItem, answer_item, mask_value
from label_config import LabelConfig, map_label
from worker.jobs.contract import SegmentResult
from worker.jobs.masks import from_rle

# Label Studio saves a draft five seconds after the last change. Until then it sends the mask as it was.
DRAFT_DELAY_S = 8.0
MAX_REMEMBERED = 256


class LatestMasks:
    """The newest mask of each region, while Label Studio's draft may still hold the one before."""

    def __init__(self) -> None:
        self._masks: OrderedDict[tuple[int, str], tuple[float, bytes, Mask]] = OrderedDict()

    def current(self, task: int, region: DraftRegion) -> Mask:
        """Return the mask that the annotator sees.

        Args:
            task: The task's number.
            region: The region as the draft has it.

        Returns:
            The latest corrected mask if it was made from the draft's mask a moment ago; else the draft's.
        """
        known = self._masks.get((task, region.id))
        if known is None:
            return region.mask
        made_at, source, mask = known
        is_pending = time.monotonic() < made_at + DRAFT_DELAY_S and source == _digest(region.mask)
        return mask if is_pending else region.mask

    def remember(self, task: int, region: DraftRegion, mask: Mask) -> None:
        """Keep the corrected mask of a region for the next click."""
        self._masks[task, region.id] = time.monotonic(), _digest(region.mask), mask
        self._masks.move_to_end((task, region.id))
        while len(self._masks) > MAX_REMEMBERED:
            self._masks.popitem(last=False)


def name_of(region: DraftRegion | None, config: LabelConfig) -> str:
    """Return the words for an object: the region's text, else its label, else "object"."""
    if region is not None:
        meta = region.item.get("meta")
        text = meta.get("text") if isinstance(meta, dict) else None
        labels = region.item.get("value", {}).get(config.mask.kind)
        for names in (text, labels):
            if isinstance(names, list) and names and isinstance(names[0], str) and names[0].strip():
                return names[0].strip()
    return "object"


def build_refinement(
    result: SegmentResult, config: LabelConfig, pointing: Pointing, region: DraftRegion | None
) -> Prediction:
    """Make the prediction that shows a corrected or a new mask.

    Args:
        result: The worker's result; its only target is the mask.
        config: The project's labeling configuration.
        pointing: What was pointed at.
        region: The region that is corrected; None for a new one.

    Returns:
        One region, under the id of the corrected one, and a sentence for the annotator. No region if nothing
        is left of the mask.
    """
    name = name_of(region, config)
    mask = from_rle(result.targets[0].mask)
    if not mask.any():
        return {"result": answer_item(config, f'Nothing is left of "{name}" after these points.')}
    score = result.targets[0].score
    if region is not None:
        labels = region.item.get("value", {}).get(config.mask.kind) or []
        item: ResultItem = {**region.item, "value": mask_value(mask, config, labels), "score": score}
        sentence = f'"{name}" is corrected; accept it or point again.'
    else:
        label = pointing.label or map_label("", config)
        item = _new_region(result, config, mask_value(mask, config, [label] if label else []), score)
        sentence = "A new mask; accept it or point again."
        sentence += "" if label else " Choose a label for it."
    return {"result": [item, *answer_item(config, sentence)], "model_version": result.model_version}


def _new_region(
    result: SegmentResult, config: LabelConfig, value: dict[str, Any], score: float
) -> ResultItem:
    identity = hashlib.sha1(result.job_id.encode(), usedforsecurity=False).hexdigest()
    return {
        "id": identity[:ITEM_ID_CHARS],
        "from_name": config.mask.name,
        "to_name": config.image.name,
        "type": config.mask.kind,
        "original_width": result.width,
        "original_height": result.height,
        "image_rotation": 0,
        "value": value,
        "score": score,
    }


def _digest(mask: Mask) -> bytes:
    return hashlib.blake2b(mask.tobytes(), digest_size=16).digest()
