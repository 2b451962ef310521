"""A mask as the values of Label Studio regions: brush, bitmask, polygons or a rectangle."""

from __future__ import annotations

import hashlib
from typing import Any

from backend.label_studio import bitmask, brush_rle
from backend.label_studio.brush_rle import Mask
from backend.label_studio.contours import bounds, without_small_parts
from backend.label_studio.polygons import DECIMALS, MAX_POLYGONS, to_polygons
from label_config import ShapeKind
from worker.jobs.contract import SegmentResult
from worker.jobs.masks import from_rle, to_rle

ITEM_ID_CHARS = 10  # as Label Studio's own ids


def region_values(mask: Mask, kind: ShapeKind) -> list[dict[str, Any]]:
    """Return the `value` of each region that shows a mask, without labels.

    Args:
        mask: Shape (height, width), not empty.
        kind: The kind of the control that the regions belong to.

    Returns:
        One value; of polygons one for each part of the mask, largest first.
    """
    match kind.removesuffix("labels"):
        case "brush":
            return [{"format": "rle", "rle": brush_rle.encode(mask)}]
        case "bitmask":
            return [{"imageDataURL": bitmask.encode(mask)}]
        case "polygon":
            return [{"points": points, "closed": True} for points in to_polygons(mask)]
        case _:
            return [_rectangle(mask)]


def region_id(job: str, index: int, kind: ShapeKind = "brushlabels", part: int = 0) -> str:
    """Return the id of a region that shows target `index` of a job.

    Args:
        job: The job's id.
        index: The target's place among the job's targets.
        kind: The kind of the control that the region belongs to; all masks of a target have the same id.
        part: Which of a target's polygons it is.
    """
    shape = kind.removesuffix("labels")
    suffix = "" if shape in ("brush", "bitmask") else f":{shape}:{part}"
    digest = hashlib.sha1(f"{job}:{index}{suffix}".encode(), usedforsecurity=False)
    return digest.hexdigest()[:ITEM_ID_CHARS]


def region_ids(job: str, index: int) -> list[str]:
    """Return all ids that regions of target `index` of a job can have, whatever the configuration."""
    polygons = [region_id(job, index, "polygon", part) for part in range(MAX_POLYGONS)]
    return [region_id(job, index), region_id(job, index, "rectangle"), *polygons]


def without_speckles(result: SegmentResult, min_share: float) -> SegmentResult:
    """Remove the speckles and pinholes of an answer's masks.

    Args:
        result: The answer.
        min_share: The share of the image's area that a part or a hole must have to stay; 0 keeps all.
    """
    min_area = min_share * result.width * result.height
    if min_area <= 1:
        return result
    targets = []
    for target in result.targets:
        mask = without_small_parts(from_rle(target.mask), min_area)
        box = bounds(mask) if mask.any() else target.box
        targets.append(target.model_copy(update={"mask": to_rle(mask), "box": box}))
    return result.model_copy(update={"targets": tuple(targets)})


def _rectangle(mask: Mask) -> dict[str, Any]:
    """Return the smallest rectangle around a mask, in percent of the image."""
    height, width = mask.shape
    left, top, right, bottom = bounds(mask)
    return {
        "x": round(100 * left / width, DECIMALS),
        "y": round(100 * top / height, DECIMALS),
        "width": round(100 * (right - left) / width, DECIMALS),
        "height": round(100 * (bottom - top) / height, DECIMALS),
        "rotation": 0,
    }
