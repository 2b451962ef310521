"""Photos with true masks of single objects, for training and measuring the click head.

A folder holds `images/` and a COCO-form `instances.json`. Photos are held out for evaluation by their id (in
a folder without `source` entries) or by a hash of their file name: the same ones on every run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pycocotools import mask as rle

from pixellm_model.samples import Mask
from recipes.pixellm_mini.coco import held_out

EVALUATION_PERCENT = 17  # of the fully annotated photos of a folder with sources
# Sources whose licence permits shipping weights that were trained on them.
SHIPPABLE = frozenset(
    {
        *("lightly-ai/coco128_yolo", "developer0hye/COCO128", "Obmutescence/COCO-MINI", "zzowenzz/COCO_Tiny"),
        *("enginbozaba/tiny_coco", "mchoccie/DeepDataMiningLearning", "minto5z/coco_yolo"),
        *("a-hwang/building-facade-segmentation", "Tuestag/COAD", "wonghan/coco-datasets-balloon"),
        "martinezger/vehicle-detection-rcnn",
    }
)


@dataclass(frozen=True)
class AnnotatedObject:
    """One annotation.

    Attributes:
        name: Its category's name.
        run_lengths: Its mask in COCO's run-length encoding, at the photo's size.
    """

    name: str
    run_lengths: dict[str, Any]

    @property
    def mask(self) -> Mask:
        """The mask (H, W)."""
        return rle.decode(self.run_lengths).astype(bool)

    @property
    def area(self) -> float:
        """The mask's share of the photo, 0..1."""
        height, width = self.run_lengths["size"]
        return float(rle.area(self.run_lengths)) / (height * width)


@dataclass(frozen=True)
class AnnotatedPhoto:
    """A photo and its objects.

    Attributes:
        path: The image file.
        objects: The annotated objects.
    """

    path: Path
    objects: tuple[AnnotatedObject, ...]

    @property
    def image(self) -> Image.Image:
        """The photo as RGB, read from its file."""
        return Image.open(self.path).convert("RGB")


def is_evaluation_photo(entry: dict[str, Any]) -> bool:
    """Whether a photo is held out for evaluation; `entry` is one of the `images` of `instances.json`."""
    if "source" not in entry:
        return held_out(int(entry["id"]))
    digest = hashlib.sha256(entry["file_name"].encode()).digest()
    return not entry.get("partial") and int.from_bytes(digest[:4], "big") % 100 < EVALUATION_PERCENT


def read_photos(folders: Iterable[Path], evaluation: bool, min_area: float) -> list[AnnotatedPhoto]:
    """Read the photos of some folders, of shippable sources only.

    Args:
        folders: The folders.
        evaluation: Whether to return the photos that are held out for evaluation, or the others.
        min_area: Smallest share of the photo that an object may have; smaller ones are left out.

    Returns:
        The photos that have at least one object.
    """
    photos = []
    for folder in folders:
        coco = json.loads((folder / "instances.json").read_text("utf-8"))
        names = {category["id"]: str(category["name"]) for category in coco["categories"]}
        annotations: dict[int, list[dict[str, Any]]] = {}
        for annotation in coco["annotations"]:
            if not annotation.get("iscrowd"):
                annotations.setdefault(annotation["image_id"], []).append(annotation)
        for entry in coco["images"]:
            if "source" in entry and entry["source"] not in SHIPPABLE:
                continue
            if is_evaluation_photo(entry) != evaluation:
                continue
            candidates = [
                AnnotatedObject(names[annotation["category_id"]], _run_lengths(annotation, entry))
                for annotation in annotations.get(entry["id"], [])
            ]
            objects = tuple(candidate for candidate in candidates if candidate.area >= min_area)
            path = folder / "images" / entry["file_name"]
            if objects and path.exists():
                photos.append(AnnotatedPhoto(path, objects))
    return photos


def _run_lengths(annotation: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation's mask, given as polygons or run lengths, in compressed run lengths."""
    segmentation = annotation["segmentation"]
    height, width = entry["height"], entry["width"]
    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, height, width)
    return segmentation
