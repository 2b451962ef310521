"""Reads the mask regions of a submitted Label Studio annotation."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from backend.label_studio import brush_rle
from backend.label_studio.brush_rle import ALPHA_THRESHOLD, Mask
from backend.label_studio.strokes import paint
from label_config import LabelConfig

MAX_SIDE = 100_000  # pixels


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
    """

    label: str | None
    mask: Mask
    origin: str = "manual"
    region_id: str | None = None
    job: str | None = None
    index: int | None = None
    prompt: str | None = None
    proposed_label: str | None = None


def read_regions(result: Sequence[Any], config: LabelConfig) -> list[Region]:
    """Read the masks of an annotation.

    Args:
        result: The annotation's `result`; items that are not masks of the configuration are skipped.
        config: The project's labeling configuration.

    Returns:
        The regions, in the order of `result`.

    Raises:
        UnreadableAnnotation: A mask cannot be decoded, or masks are of images of different sizes.
    """
    regions = [
        _read_region(item, config)
        for item in result
        if isinstance(item, dict) and item.get("type") == config.mask.kind
    ]
    if len({region.mask.shape for region in regions}) > 1:
        raise UnreadableAnnotation("its regions are of images of different sizes")
    return regions


def _read_region(item: dict[str, Any], config: LabelConfig) -> Region:
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
    meta = item.get("meta")
    source = meta.get("pixellm") if isinstance(meta, dict) else None
    source = source if isinstance(source, dict) else {}
    labels = value.get(config.mask.kind)
    return Region(
        label=labels[0] if isinstance(labels, list) and labels and isinstance(labels[0], str) else None,
        mask=_read_mask(value, height, width),
        origin=str(item.get("origin", "manual")),
        region_id=_text(item.get("id")),
        job=_text(source.get("job")),
        index=source.get("target") if isinstance(source.get("target"), int) else None,
        prompt=_text(source.get("prompt")),
        proposed_label=_text(source.get("label")),
    )


def _read_mask(value: dict[str, Any], height: int, width: int) -> Mask:
    try:
        if "rle" in value:
            mask = brush_rle.decode(value["rle"], height, width)
        elif isinstance(value.get("imageDataURL"), str):
            mask = _decode_png(value["imageDataURL"], height, width)
        elif value.get("touches"):
            mask = np.zeros((height, width), bool)
        else:
            raise ValueError("it holds no mask")
        touches = value.get("touches")
        return paint(mask, touches) if isinstance(touches, list) and touches else mask
    except ValueError as error:
        raise UnreadableAnnotation(f"a mask cannot be read: {error}") from error


def _decode_png(url: str, height: int, width: int) -> Mask:
    try:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise ValueError(f"the picture is {image.width} x {image.height}, not {width} x {height}")
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture is damaged ({type(error).__name__})") from error
    return alpha > ALPHA_THRESHOLD


def _is_side(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 < value < MAX_SIDE


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
