"""Which targets of an answer the annotator has accepted already, so that none is proposed twice."""

from __future__ import annotations

import numpy as np

from backend.label_studio.brush_rle import Mask
from backend.prompts.pointing import draft_regions
from backend.prompts.request import Task
from backend.prompts.shapes import region_id
from label_config import LabelConfig, map_label
from worker.jobs.contract import SegmentResult
from worker.jobs.masks import from_rle

SAME_IOU = 0.9  # masks of one label that overlap so much are of one object


def marked_targets(result: SegmentResult, task: Task, config: LabelConfig) -> frozenset[int]:
    """Find the targets whose object has a mask of the same label in the annotator's draft.

    A mask in the draft that this very target made does not count: the answer replaces it.

    Args:
        result: The model's answer.
        task: The task with its drafts.
        config: The project's labeling configuration for the image.

    Returns:
        The targets' indices.
    """
    labels = [map_label(target.phrase, config) for target in result.targets]
    regions = list(draft_regions(task, config, {label for label in labels if label is not None}))
    marked = set()
    for index, (target, label) in enumerate(zip(result.targets, labels, strict=True)):
        mask = from_rle(target.mask) if label and regions else None
        if label is None or mask is None or not mask.any():
            continue
        own = region_id(result.job_id, index, config.shape_for(label).kind)
        if any(label in each.labels and each.id != own and _same(each.mask, mask) for each in regions):
            marked.add(index)
    return frozenset(marked)


def _same(one: Mask, other: Mask) -> bool:
    if one.shape != other.shape:
        return False
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) >= SAME_IOU * union
