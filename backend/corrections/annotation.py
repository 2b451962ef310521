"""Reads the masks of a submitted Label Studio annotation.

Brush and bitmask regions are masks, and polygons are filled. Of other regions, such as rectangles, it is not
known which pixels belong to the object. An annotation that is not understood as a whole is refused: better
nothing is learned than that something is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from backend.label_studio import bitmask, brush_rle
from backend.label_studio.brush_rle import Mask
from backend.label_studio.polygons import from_polygon
from backend.label_studio.strokes import paint
from label_config import NOTHING_ELSE, LabelConfig

MAX_SIDE = 100_000  # pixels

_MASK_TYPES = frozenset(["brush", "brushlabels", "bitmask", "bitmasklabels", "magicwand"])
_POLYGON_TYPES = frozenset(["polygon", "polygonlabels"])
# Results about a region or the whole image that are no regions themselves.
_CLASSIFICATION_TYPES = frozenset(
    ["choices", "textarea", "taxonomy", "rating", "number", "datetime", "pairwise", "ranker"]
)

# The items of one region: the region itself, its labels if they are in a `<Labels>`, and texts or choices
# about it. Label Studio gives them the same id.
_Items = list[dict[str, Any]]


class UnreadableAnnotation(ValueError):
    """An annotation that cannot be learned from; the message says why."""


@dataclass(frozen=True)
class Region:
    """One mask of an annotation as it was submitted.

    A region that began as a proposal says in `meta.pixellm` which: Label Studio keeps it in most cases.

    Attributes:
        label: The label in the annotation, None if it has none.
        mask: Shape (height, width) of the image.
        origin: Label Studio's: "prediction", "prediction-changed" after a change, or "manual" if drawn.
        region_id: Label Studio's id of the region.
        job: The job that proposed it.
        index: The proposed target's index in that job.
        prompt: The prompt of that job.
        proposed_label: The label that was proposed.
        is_polygon: Whether the mask is a polygon that was filled.
        parts: How many polygons showed the proposed target; None if it was not shown by polygons.
    """

    label: str | None
    mask: Mask
    origin: str = "manual"
    region_id: str | None = None
    job: str | None = None
    index: int | None = None
    prompt: str | None = None
    proposed_label: str | None = None
    is_polygon: bool = False
    parts: int | None = None


def read_regions(result: Sequence[Any], config: LabelConfig) -> list[Region]:
    """Read the masks of an annotation.

    Args:
        result: The annotation's `result`. Texts of the prompt and answer controls are skipped, and so are
            choices of the control NOTHING_ELSE, and what is drawn on other images than the task's first one.
        config: The project's labeling configuration with the task's labels.

    Returns:
        The regions, in the order of `result`.

    Raises:
        UnreadableAnnotation: A mask cannot be decoded, masks are of images of different sizes, a region has
            several labels, or what was submitted in place of masks is not understood.
    """
    groups = _grouped([item for item in result if isinstance(item, dict) and item.get("type") != "relation"])
    groups = [items for items in groups if not _is_of_own_control(items, config)]
    here = [items for items in groups if _is_on_first_image(items, config)]
    with_mask = [(item, items) for items in here if (item := _mask_item(items)) is not None]
    regions = [_read_region(item, items) for item, items in with_mask]
    without_mask = [items for items in here if _mask_item(items) is None]
    _check_understood(regions, without_mask, config)
    if not regions and len(here) < len(groups):
        raise UnreadableAnnotation("it has no masks on the task's first image, but regions on another one")
    if len({region.mask.shape for region in regions}) > 1:
        raise UnreadableAnnotation("its regions are of images of different sizes")
    return regions


def _grouped(items: _Items) -> list[_Items]:
    """Return the items by region, in order.

    The items of one region share its id and differ in type, as a shape and its label do. A second mask under
    the same id is a region of its own.
    """
    groups: list[_Items] = []
    newest: dict[str, _Items] = {}
    for item in items:
        region = _text(item.get("id"))
        group = newest.get(region) if region else None
        if group is None or any(other.get("type") == item.get("type") for other in group):
            group = []
            groups.append(group)
            if region:
                newest[region] = group
        group.append(item)
    return groups


def _is_of_own_control(items: _Items, config: LabelConfig) -> bool:
    own = {("textarea", config.prompt), ("textarea", config.answer), ("choices", NOTHING_ELSE)}
    return any((item.get("type"), item.get("from_name")) in own for item in items)


def _is_on_first_image(items: _Items, config: LabelConfig) -> bool:
    return all(
        item.get("to_name", config.image.name) == config.image.name and not item.get("item_index")
        for item in items
    )


def _mask_item(items: _Items) -> dict[str, Any] | None:
    """Return the item that holds a region's mask; None if the region has none."""
    masks = [item for item in items if item.get("type") in _MASK_TYPES | _POLYGON_TYPES]
    # Where the drawing control's own item is missing, the item of the `<Labels>` holds the mask too.
    masks += [
        item
        for item in items
        if item.get("type") == "labels"
        and isinstance(item.get("value"), dict)
        and not item["value"].keys().isdisjoint(["rle", "imageDataURL", "touches", "points"])
    ]
    return next(iter(masks), None)


def _check_understood(regions: list[Region], without_mask: list[_Items], config: LabelConfig) -> None:
    """Check that nothing in an annotation may stand for a mask that is missing.

    Raises:
        UnreadableAnnotation: Something may.
    """
    known_labels = {label.value for label in config.labels}
    for items in without_mask:
        if all(item.get("type") in _CLASSIFICATION_TYPES for item in items):
            if not regions:
                raise UnreadableAnnotation(
                    f'it has no masks but a value of "{items[0].get("from_name")}", which may be the reason'
                )
            continue
        # Points and boxes that were sent to the model may be left over beside the masks.
        if regions and all(item.get("from_name") in config.pointing for item in items):
            continue
        labels = _labels(items)
        proposed = any(proposal_of(item) for item in items)
        if not regions or proposed or not labels or not known_labels.isdisjoint(labels):
            raise UnreadableAnnotation(
                f"it has a region of the type {items[0].get('type')}, and which of its pixels belong to the "
                "object is not known"
            )


def _read_region(item: dict[str, Any], items: _Items) -> Region:
    value = item.get("value")
    if not isinstance(value, dict):
        raise UnreadableAnnotation("a region has no value")
    height, width = item.get("original_height"), item.get("original_width")
    if not (_is_side(height) and _is_side(width)):
        raise UnreadableAnnotation("a region does not say how large its image is")
    if item.get("image_rotation"):
        raise UnreadableAnnotation(
            "the image was rotated in the editor, and masks of a rotated image are not read"
        )
    labels = _labels([item]) or _labels(items)
    if len(labels) > 1:
        raise UnreadableAnnotation(f"a region has several labels ({', '.join(labels)}); give it one")
    mask = _read_mask(value, height, width)
    if not mask.any():
        raise UnreadableAnnotation("a region's mask has no pixels")
    source = proposal_of(item)
    return Region(
        label=labels[0] if labels else None,
        mask=mask,
        origin=str(item.get("origin", "manual")),
        region_id=_text(item.get("id")),
        job=_text(source.get("job")),
        index=source.get("target") if isinstance(source.get("target"), int) else None,
        prompt=_text(source.get("prompt")),
        proposed_label=_text(source.get("label")),
        is_polygon="points" in value,
        parts=source.get("parts") if isinstance(source.get("parts"), int) else None,
    )


def _labels(items: _Items) -> list[str]:
    """Return the labels of items, each once: those under their own type, or in a `<Labels>` beside them."""
    labels: dict[str, None] = {}
    for item in items:
        value = item.get("value")
        for key in (item.get("type"), "labels"):
            own = value.get(key) if isinstance(value, dict) and str(key).endswith("labels") else None
            if isinstance(own, list):
                labels.update(dict.fromkeys(label for label in own if isinstance(label, str)))
    return list(labels)


def proposal_of(item: dict[str, Any]) -> dict[str, Any]:
    """Return what `meta.pixellm` says about a proposed region; empty if it was not proposed."""
    meta = item.get("meta")
    source = meta.get("pixellm") if isinstance(meta, dict) else None
    return source if isinstance(source, dict) else {}


def _read_mask(value: dict[str, Any], height: int, width: int) -> Mask:
    try:
        if "rle" in value:
            mask = brush_rle.decode(value["rle"], height, width)
        elif isinstance(value.get("imageDataURL"), str):
            mask = bitmask.decode(value["imageDataURL"], height, width)
        elif "points" in value:
            return from_polygon(value["points"], height, width)
        elif value.get("touches"):
            mask = np.zeros((height, width), bool)
        else:
            raise ValueError("it holds no mask")
        touches = value.get("touches")
        return paint(mask, touches) if isinstance(touches, list) and touches else mask
    except ValueError as error:
        raise UnreadableAnnotation(f"a mask cannot be read: {error}") from error


def _is_side(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 < value < MAX_SIDE


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
