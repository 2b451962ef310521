"""Photos with true masks of single objects, for learning and measuring refinement by clicks.

A folder holds `images/` and a COCO-form `instances.json`. Photos are kept for evaluation by their id (a
folder without `source` entries) or by a hash of their name: the same ones on every run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from recipes.pixellm_mini.coco import held_out

KEPT = 17  # percent of the fully annotated photos of a folder with sources
# Sources whose licence lets weights trained on them be shipped.
SHIPPABLE = frozenset(
    {
        *("lightly-ai/coco128_yolo", "developer0hye/COCO128", "Obmutescence/COCO-MINI", "zzowenzz/COCO_Tiny"),
        *("enginbozaba/tiny_coco", "mchoccie/DeepDataMiningLearning", "minto5z/coco_yolo"),
        *("a-hwang/building-facade-segmentation", "Tuestag/COAD", "wonghan/coco-datasets-balloon"),
        "martinezger/vehicle-detection-rcnn",
    }
)


@dataclass(frozen=True)
class MarkedObject:
    """One annotation: its category's name and its mask, as run lengths of the photo's size."""

    name: str
    encoded: dict[str, Any]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return rle.decode(self.encoded).astype(bool)

    @property
    def area(self) -> float:
        """Share of the photo."""
        height, width = self.encoded["size"]
        return float(rle.area(self.encoded)) / (height * width)


@dataclass(frozen=True)
class MarkedPhoto:
    """A photo and the objects marked in it."""

    path: Path
    objects: tuple[MarkedObject, ...]

    @property
    def image(self) -> Image.Image:
        return Image.open(self.path).convert("RGB")


def kept_aside(entry: dict[str, Any]) -> bool:
    """Whether a photo, an entry of `images`, is kept for evaluation."""
    if "source" not in entry:
        return held_out(int(entry["id"]))
    digest = hashlib.sha256(entry["file_name"].encode()).digest()
    return not entry.get("partial") and int.from_bytes(digest[:4], "big") % 100 < KEPT


def read_photos(folders: Iterable[Path], kept: bool, smallest: float) -> list[MarkedPhoto]:
    """The photos of some folders that are kept for evaluation, or the others, of shippable sources.

    Objects smaller than `smallest`, a share of the photo, are left out, and photos without any larger one.
    """
    photos = []
    for folder in folders:
        coco = json.loads((folder / "instances.json").read_text("utf-8"))
        names = {category["id"]: str(category["name"]) for category in coco["categories"]}
        marks: dict[int, list[dict[str, Any]]] = {}
        for mark in coco["annotations"]:
            if not mark.get("iscrowd"):
                marks.setdefault(mark["image_id"], []).append(mark)
        for entry in coco["images"]:
            if kept_aside(entry) != kept or ("source" in entry and entry["source"] not in SHIPPABLE):
                continue
            found = [
                MarkedObject(names[mark["category_id"]], _encoded(mark["segmentation"], entry))
                for mark in marks.get(entry["id"], [])
            ]
            objects = tuple(thing for thing in found if thing.area >= smallest)
            path = folder / "images" / entry["file_name"]
            if objects and path.exists():
                photos.append(MarkedPhoto(path, objects))
    return photos


def _encoded(segmentation: Any, entry: dict[str, Any]) -> dict[str, Any]:
    height, width = entry["height"], entry["width"]
    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, height, width)
    return segmentation
