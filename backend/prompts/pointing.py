"""Points and boxes in the editor: which object of which mask they are about, and the job that answers them.

Label Studio's smart `<KeyPoint>` and `<Rectangle>` tools send all their points and boxes that wait for an
answer, in percent of the image, and nothing else: no prompt, no masks, no selection. A click with Alt is
negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.label_studio import brush_rle
from backend.label_studio.brush_rle import Mask
from backend.label_studio.strokes import paint
from backend.prompts.request import Task
from label_config import LabelConfig
from worker.jobs.contract import MAX_CLICKS, Click

POINTS = ("keypoint", "keypointlabels")
BOXES = ("rectangle", "rectanglelabels")
MAX_PIXELS = 2**28  # of a mask in a draft


@dataclass(frozen=True)
class Pointing:
    """What an annotator pointed at.

    Attributes:
        clicks: The points in pixels of the image, oldest first.
        box: x0, y0, x1, y1 in pixels; None without one.
        width: The image's width in pixels.
        height: The image's height in pixels.
        label: The label that was active in the editor; None without one.
    """

    clicks: tuple[Click, ...]
    box: tuple[float, float, float, float] | None
    width: int
    height: int
    label: str | None = None


@dataclass(frozen=True)
class DraftRegion:
    """A mask in the annotator's draft.

    Attributes:
        item: The region as Label Studio stores it.
        mask: Its mask with all strokes, shape (height, width).
    """

    item: dict[str, Any]
    mask: Mask

    @property
    def id(self) -> str:
        """Label Studio's id of the region."""
        return str(self.item.get("id", ""))


def read_pointing(items: Sequence[dict[str, Any]], config: LabelConfig) -> Pointing | None:
    """Read the points and boxes of a request.

    Args:
        items: The context of the request.
        config: The project's labeling configuration.

    Returns:
        What was pointed at; None if the request holds no usable point or box.
    """
    clicks: list[Click] = []
    box, size, label = None, None, None
    for item in items:
        kind, value = item.get("type"), item.get("value")
        if item.get("to_name") != config.image.name or not isinstance(value, dict):
            continue
        try:
            width, height = int(item["original_width"]), int(item["original_height"])
            if kind in POINTS:
                x, y = _pixels(value["x"], width), _pixels(value["y"], height)
                clicks.append(Click(x=x, y=y, positive=item.get("is_positive") is not False))
            elif kind in BOXES:
                left, top = _pixels(value["x"], width), _pixels(value["y"], height)
                right = _pixels(value["x"] + value["width"], width)
                bottom = _pixels(value["y"] + value["height"], height)
                box = (left, top, right, bottom)
            else:
                continue
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        size = (width, height)
        active = value.get("labels")
        if isinstance(active, list) and active and any(active[0] == known.value for known in config.labels):
            label = str(active[0])
    if size is None or min(size) < 1:
        return None
    return Pointing(tuple(clicks[-MAX_CLICKS:]), box, *size, label)


def region_pointed_at(pointing: Pointing, task: Task, config: LabelConfig) -> DraftRegion | None:
    """Find the mask in the annotator's draft that is pointed at.

    Returns:
        The smallest mask under the first positive click, else under the first negative one; None if there is
        none, and for a box alone, which begins a new mask.
    """
    ordered = sorted(pointing.clicks, key=lambda click: not click.positive)
    if not ordered:
        return None
    column, row = int(ordered[0].x), int(ordered[0].y)
    under = [
        region
        for region in draft_regions(task, config)
        if region.mask.shape == (pointing.height, pointing.width) and region.mask[row, column]
    ]
    return min(under, key=lambda region: np.count_nonzero(region.mask), default=None)


def draft_regions(task: Task, config: LabelConfig) -> Iterator[DraftRegion]:
    """Yield the masks of the newest draft; what cannot be read is left out."""
    drafts = [draft for draft in task.drafts if isinstance(draft.get("result"), list)]
    if not drafts:
        return
    for item in max(drafts, key=lambda draft: str(draft.get("updated_at", "")))["result"]:
        if not isinstance(item, dict) or item.get("from_name") != config.mask.name:
            continue
        value = item.get("value")
        if not isinstance(value, dict) or value.get("format") != "rle":
            continue
        try:
            width, height = int(item["original_width"]), int(item["original_height"])
            if not 0 < width * height <= MAX_PIXELS:
                continue
            rle = value.get("rle") or []
            mask = brush_rle.decode(rle, height, width) if rle else np.zeros((height, width), bool)
            yield DraftRegion(item, paint(mask, value.get("touches") or []))
        except (KeyError, TypeError, ValueError):
            continue


def _pixels(percent: float, size: int) -> float:
    """A place in percent as one in pixels, inside the image."""
    return float(min(max(percent * size / 100, 0.0), size - 0.001))
