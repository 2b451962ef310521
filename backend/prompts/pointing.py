"""Points and boxes in the editor: which object of which mask they are about, and the job that answers them.

Label Studio's smart `<KeyPoint>` and `<Rectangle>` tools send all their points and boxes that wait for an
answer, in percent of the image, and nothing else: no prompt, no masks, no selection. A click with Alt is
negative.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.label_studio import bitmask, brush_rle
from backend.label_studio.brush_rle import Mask
from backend.label_studio.strokes import paint
from backend.prompts.request import Task
from label_config import LabelConfig, ShapeControl
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
        label: The label that was active in the editor, if a control for masks has it; else None.
        item_index: Which of the task's images it is about.
    """

    clicks: tuple[Click, ...]
    box: tuple[float, float, float, float] | None
    width: int
    height: int
    label: str | None = None
    item_index: int = 0


@dataclass(frozen=True)
class DraftRegion:
    """A mask in the annotator's draft.

    Attributes:
        item: The result that holds the mask, as Label Studio stores it.
        mask: Its mask with all strokes, shape (height, width).
        control: The control that the region belongs to.
        labels: Its labels.
    """

    item: dict[str, Any]
    mask: Mask
    control: ShapeControl
    labels: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Label Studio's id of the region."""
        return str(self.item.get("id", ""))


def read_pointing(items: Sequence[dict[str, Any]], config: LabelConfig) -> Pointing | None:
    """Read the points and boxes of a request.

    Args:
        items: The context of the request.
        config: The project's labeling configuration with the task's labels.

    Returns:
        What was pointed at on the image that the newest point or box is on; None if the request holds no
        usable one.
    """
    pointing: Pointing | None = None
    known = {label.value for control in config.masks for label in control.labels}
    for item in items:
        kind, value = item.get("type"), item.get("value")
        if item.get("to_name") != config.image.name or not isinstance(value, dict):
            continue
        try:
            width, height = int(item["original_width"]), int(item["original_height"])
            index = int(item.get("item_index") or 0)
            if pointing is None or pointing.item_index != index:
                previous = Pointing((), None, width, height, item_index=index)
            else:
                previous = replace(pointing, width=width, height=height)
            if kind in POINTS:
                x, y = _pixels(value["x"], width), _pixels(value["y"], height)
                click = Click(x=x, y=y, positive=item.get("is_positive") is not False)
                current = replace(previous, clicks=(*previous.clicks, click)[-MAX_CLICKS:])
            elif kind in BOXES:
                left, top = _pixels(value["x"], width), _pixels(value["y"], height)
                right = _pixels(value["x"] + value["width"], width)
                bottom = _pixels(value["y"] + value["height"], height)
                current = replace(previous, box=(left, top, right, bottom))
            else:
                continue
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        active = value.get("labels")
        if isinstance(active, list) and active and active[0] in known:
            current = replace(current, label=active[0])
        pointing = current
    return None if pointing is None or min(pointing.width, pointing.height) < 1 else pointing


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


def draft_regions(
    task: Task, config: LabelConfig, labels: Container[str] | None = None
) -> Iterator[DraftRegion]:
    """Yield the masks of the newest draft on the image that is meant; what cannot be read is left out.

    Args:
        task: The task with its drafts.
        config: The project's labeling configuration for the image.
        labels: Only masks with one of these labels are decoded and yielded; None: all.
    """
    drafts = [draft for draft in task.drafts if isinstance(draft.get("result"), list)]
    if drafts:
        newest = max(drafts, key=lambda draft: str(draft.get("updated_at", "")))
        yield from regions_in(newest["result"], config, labels)


def regions_in(
    result: Sequence[Any], config: LabelConfig, labels: Container[str] | None = None
) -> Iterator[DraftRegion]:
    """Yield the masks among results, on the image that is meant; what cannot be read is left out.

    Args:
        result: The results.
        config: The project's labeling configuration for the image.
        labels: Only masks with one of these labels are decoded and yielded; None: all.
    """
    items = [
        item
        for item in result
        if isinstance(item, dict) and (item.get("item_index") or 0) == (config.item_index or 0)
    ]
    for control in config.masks:
        for item in items:
            if not _holds_region_of(item, items, control):
                continue
            own = _labels(item, items, control)
            if labels is not None and not any(label in labels for label in own):
                continue
            if (mask := _read_mask(item)) is not None:
                yield DraftRegion(item, mask, control, own)


def _holds_region_of(item: dict[str, Any], items: Sequence[dict[str, Any]], control: ShapeControl) -> bool:
    """Return whether a result holds a region of a control.

    Where the result of a drawing control is missing, that of the `<Labels>` beside it holds the mask.
    """
    if item.get("from_name") == control.name:
        return True
    value = item.get("value")
    if control.labels_name is None or item.get("from_name") != control.labels_name:
        return False
    key = "rle" if control.kind == "brush" else "imageDataURL"
    return (
        isinstance(value, dict)
        and key in value
        and not any(
            other.get("from_name") == control.name and other.get("id") == item.get("id") for other in items
        )
    )


def _read_mask(item: dict[str, Any]) -> Mask | None:
    """Return the mask of a region; None if it has none or cannot be read."""
    value = item.get("value")
    try:
        width, height = int(item["original_width"]), int(item["original_height"])
        if not isinstance(value, dict) or not 0 < width * height <= MAX_PIXELS:
            return None
        if value.get("format") == "rle":
            rle = value.get("rle") or []
            mask = brush_rle.decode(rle, height, width) if rle else np.zeros((height, width), bool)
        elif isinstance(value.get("imageDataURL"), str):
            mask = bitmask.decode(value["imageDataURL"], height, width)
        else:
            return None
        return paint(mask, value.get("touches") or [])
    except (KeyError, TypeError, ValueError):
        return None


def _labels(item: dict[str, Any], items: Sequence[dict[str, Any]], control: ShapeControl) -> tuple[str, ...]:
    """Return a region's labels; those of a drawing control are in another result with the same id."""
    key: str = control.kind
    if control.labels_name is not None:
        key = "labels"
        beside = (
            other
            for other in items
            if other.get("from_name") == control.labels_name and other.get("id") == item.get("id")
        )
        item = next(beside, item)
    value = item.get("value")
    labels = value.get(key) if isinstance(value, dict) else None
    return tuple(label for label in labels if isinstance(label, str)) if isinstance(labels, list) else ()


def _pixels(percent: float, size: int) -> float:
    """A place in percent as one in pixels, inside the image."""
    return float(min(max(percent * size / 100, 0.0), size - 0.001))
