"""Photos with masks in COCO form: which of them may be used, what each proves missing, and views of them.

A folder holds `images/` and one `instances.json`; an image may say its `source`, and `partial` where things
may be present that are not marked. Masks of one name are one: a photo with five people has one thing,
"person".
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from pycocotools import mask as rle

from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import Thing
from pixellm_model.synthetic.scenes import Picture, SceneRenderer
from recipes.pixellm_mini.names import chosen_names

# Sources whose terms allow weights made from them to be shipped; photos without a source are COCO's own.
SHIPPABLE = (
    *("lightly-ai/coco128_yolo", "developer0hye/COCO128", "Obmutescence/COCO-MINI", "zzowenzz/COCO_Tiny"),
    *("enginbozaba/tiny_coco", "mchoccie/DeepDataMiningLearning", "minto5z/coco_yolo"),
    *("a-hwang/building-facade-segmentation", "Tuestag/COAD", "martinezger/vehicle-detection-rcnn"),
    "wonghan/coco-datasets-balloon",
)
STUFF_SOURCES = ("lightly-ai/coco128_yolo",)  # their photos are marked with COCO's stuff too
THINGS = 80  # COCO's first categories; the others are stuff
KEPT = 17  # percent of the whole photos of a folder with sources
LEAST_AREA = 2e-4  # of a view: what is smaller is neither asked for nor said to be missing
LEAST_KEPT = 0.25  # of a thing's area, likewise
WITH_CUTOUTS = 0.3  # of the further views
FULL = 0.3  # of the further views show all of the photo


@dataclass(frozen=True)
class Photo:
    """A photo with its marked things, `masks` as RLE by category.

    `universe` are the categories of which all is marked, so that one without a mask is missing.
    """

    file: Path
    size: tuple[int, int]
    masks: dict[str, Any]
    universe: frozenset[str]

    def decoded(self) -> dict[str, np.ndarray]:
        """Category -> mask (H, W) bool."""
        return {name: rle.decode(mask).astype(bool) for name, mask in self.masks.items()}


def held_out(image: dict[str, Any]) -> bool:
    """Whether a photo, an entry of `images`, is kept for evaluation: the same on every run."""
    if "source" not in image:
        return int(image["id"]) % 10 < 3
    digest = hashlib.sha256(image["file_name"].encode()).digest()
    return not image.get("partial") and int.from_bytes(digest[:4], "big") % 100 < KEPT


def read(folder: Path, kept: bool) -> list[Photo]:
    """The photos of a folder that are kept for evaluation, or the others; only those of SHIPPABLE sources."""
    coco = json.loads((folder / "instances.json").read_text("utf-8"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    things = frozenset(list(names.values())[:THINGS])
    marked: dict[int, dict[str, list[Any]]] = {}
    for mark in coco["annotations"]:
        marked.setdefault(mark["image_id"], {}).setdefault(names[mark["category_id"]], []).append(
            mark["segmentation"]
        )
    photos = []
    for image in coco["images"]:
        source = image.get("source")
        if held_out(image) != kept or (source is not None and source not in SHIPPABLE):
            continue
        size = (image["height"], image["width"])
        masks = {name: _joined(parts, size) for name, parts in marked.get(image["id"], {}).items()}
        universe = frozenset(names.values()) if source in STUFF_SOURCES else things
        if image.get("partial"):
            universe = frozenset()
        photos.append(Photo(folder / "images" / image["file_name"], size, masks, universe))
    return photos


def _joined(parts: list[Any], size: tuple[int, int]) -> Any:
    """Polygons and RLEs of one category -> one RLE."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, list):
            found += rle.frPyObjects(part, *size)
        else:
            found.append(part if isinstance(part["counts"], (str, bytes)) else rle.frPyObjects(part, *size))
    return rle.merge(found)


def shippable(folders: Sequence[Path], nouns: Nouns) -> list[Photo]:
    """The photos to train on, under the names that are taught; those without any are left out."""
    known = {synonym: noun.name for noun in nouns.by_name.values() for synonym in noun.synonyms}
    taught = set(chosen_names())
    photos = []
    for folder in folders:
        for photo in read(folder, kept=False):
            masks: dict[str, list[Any]] = {}
            for word, mask in photo.masks.items():
                masks.setdefault(known.get(word, word), []).append(mask)
            joined = {name: rle.merge(parts) for name, parts in masks.items() if name in taught}
            universe = frozenset(known.get(word, word) for word in photo.universe)
            if joined:
                photos.append(Photo(photo.file, photo.size, joined, universe & taught))
    return photos


class PhotoViews:
    """Views of photos by number: view 0 is the photo as it is, others are parts of it, toned and flipped."""

    def __init__(
        self, photos: Sequence[Photo], views: Sequence[int], size: int, renderer: SceneRenderer | None = None
    ):
        """Choose photos and views.

        Args:
            photos: what to show.
            views: numbers of the views of each photo; the same number gives the same view.
            size: the long side of a view in pixels.
            renderer: whose cut-outs are pasted into some of the views; none without it.
        """
        self.renderer = renderer
        self.photos, self.views, self.size = list(photos), list(views), size
        self.names = frozenset(chosen_names())
        self.photos_with = Counter(name for photo in self.photos for name in photo.masks)

    def __len__(self) -> int:
        return len(self.photos) * len(self.views)

    def picture(self, number: int) -> Picture:
        """A view, with the names that nothing is known of as its backdrop."""
        photo, view = self.photos[number % len(self.photos)], self.views[number // len(self.photos)]
        image, masks = Image.open(photo.file).convert("RGB"), photo.decoded()
        rng = np.random.default_rng([number % len(self.photos), view])
        box = (0, 0, image.width, image.height)
        if view:
            box = self._box(masks, image.size, rng)
            for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = change(image).enhance(float(rng.uniform(0.7, 1.3)))
        scale = self.size / max(box[2] - box[0], box[3] - box[1])
        if view and rng.random() < 0.4:
            scale *= float(rng.uniform(0.6, 1))  # smaller, with more padding around
        size = (max(32, round((box[2] - box[0]) * scale)), max(32, round((box[3] - box[1]) * scale)))
        pixels = np.array(image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
        kept, doubtful = [], set(self.names - photo.universe)
        for name, mask in masks.items():
            if not mask.any():
                continue
            part = Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BILINEAR, box=box)
            seen = np.asarray(part) > 127
            share = seen.sum() / max(1.0, mask.sum() * scale**2)
            if seen.mean() >= LEAST_AREA and (share >= LEAST_KEPT or seen.mean() > 0.1):
                kept.append(Thing(name, seen))
            elif mask[box[1] : box[3], box[0] : box[2]].any():
                doubtful.add(name)
        if view and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
            kept = [Thing(thing.name, np.ascontiguousarray(thing.mask[:, ::-1])) for thing in kept]
        if max(size) < self.size:  # so that it is not enlarged again
            square = np.full((self.size, self.size, 3), pixels.mean((0, 1)), np.uint8)
            square[: size[1], : size[0]] = pixels
            pixels = square
            around = ((0, self.size - size[1]), (0, self.size - size[0]))
            kept = [Thing(thing.name, np.pad(thing.mask, around)) for thing in kept]
        picture = Picture(np.ascontiguousarray(pixels), kept, False, frozenset(doubtful))
        if view and self.renderer is not None and rng.random() < WITH_CUTOUTS:
            return self.renderer.paste_into(picture, int(rng.integers(1, 4)), rng)
        return picture

    def _box(
        self, masks: dict[str, np.ndarray], size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """All of the photo or a part of it around a thing, those of rare names most often."""
        width, height = size
        shown = [(name, mask) for name, mask in masks.items() if mask.any()]
        if rng.random() < FULL or not shown:
            return 0, 0, width, height
        rare = np.array([self.photos_with[name] ** -0.5 for name, _ in shown])
        mask = shown[int(rng.choice(len(shown), p=rare / rare.sum()))][1]
        rows, columns = np.nonzero(mask)
        at = int(rng.integers(len(rows)))
        side = float(np.exp(rng.uniform(np.log(0.35), 0))) * max(size)
        shape = float(rng.uniform(0.75, 1.33))
        wide, tall = min(width, round(side * shape**0.5)), min(height, round(side / shape**0.5))
        left = round(float(np.clip(columns[at] - rng.uniform(0.2, 0.8) * wide, 0, width - wide)))
        top = round(float(np.clip(rows[at] - rng.uniform(0.2, 0.8) * tall, 0, height - tall)))
        return left, top, left + wide, top + tall
