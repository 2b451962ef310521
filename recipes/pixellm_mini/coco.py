"""Real photos with true masks, in COCO's format: crops to train on, whole photos kept for evaluation.

A crop shows things larger than the photo does, and another crop of the same photo shows others. COCO marks
every thing of its categories, so that what is not marked is known to be missing; of other names nothing is
known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from pycocotools.coco import COCO

from pixellm_model.synthetic.questions import Thing
from pixellm_model.synthetic.scenes import Picture, SceneRenderer

# COCO's words for what the vocabulary calls otherwise.
COCO_WORDS = {"mouse": "computer mouse", "dining table": "table", "sports ball": "ball"}
CROWD = 3  # more things of one name are one target
LEAST_CELLS = 4 / 4096  # of the picture: what is smaller is neither asked for nor said to be missing
WITH_CUTOUTS = 0.3  # of the crops
LEAST_KEPT = 0.3  # of a thing's area, likewise


def held_out(image_id: int) -> bool:
    """Whether a photo is kept for evaluation: about a third, the same on every run."""
    return image_id % 10 < 3


class CocoPhotos:
    """The photos of a folder with `instances.json` and `images/`; `names` are the categories' known names."""

    def __init__(self, folder: Path, names: list[str], train: bool):
        self.folder, self.coco = folder, COCO(str(folder / "instances.json"))
        categories = self.coco.loadCats(self.coco.getCatIds())
        words = {c["id"]: COCO_WORDS.get(c["name"], c["name"]) for c in categories}
        self.words = {number: word for number, word in words.items() if word in names}
        self.categories = sorted(self.words.values())
        self.ids = [i for i in sorted(self.coco.getImgIds()) if held_out(i) != train]

    def pixels(self, image_id: int) -> Image.Image:
        """A photo."""
        file = self.coco.loadImgs(image_id)[0]["file_name"]
        return Image.open(self.folder / "images" / file).convert("RGB")

    def things(self, image_id: int) -> list[Thing]:
        """All marked things of known names, crowds of them as one."""
        marked = self.coco.loadAnns(self.coco.getAnnIds(image_id))
        return [
            Thing(self.words[mark["category_id"]], self.coco.annToMask(mark).astype(bool))
            for mark in marked
            if mark["category_id"] in self.words
        ]


class CocoCrops:
    """Crops by number, some with cut-outs on them; the same number gives the same crop."""

    def __init__(self, photos: CocoPhotos, renderer: SceneRenderer, names: list[str]):
        self.photos, self.renderer = photos, renderer
        self.unmarked = frozenset(names) - set(photos.categories)
        seen = [{thing.name for thing in photos.things(image_id)} for image_id in photos.ids]
        self.photos_with = {name: sum(name in s for s in seen) for name in photos.categories}

    def picture(self, number: int) -> Picture:
        """A random crop, the same for the same number."""
        rng = np.random.default_rng([number, 3])
        image_id = self.photos.ids[number % len(self.photos.ids)]
        photo, things = self.photos.pixels(image_id), self.photos.things(image_id)
        box = self._box(photo, things, rng)
        part = photo.crop(box)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            part = change(part).enhance(float(rng.uniform(0.75, 1.25)))
        scale = self.renderer.size / max(part.size)
        size = (max(32, round(part.width * scale)), max(32, round(part.height * scale)))
        pixels = np.array(part.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        whole = [Image.fromarray(thing.mask).convert("L") for thing in things]
        masks = [np.asarray(mask.resize(size, Image.Resampling.BILINEAR, box=box)) > 127 for mask in whole]
        if rng.random() < 0.5:
            pixels, masks = pixels[:, ::-1], [mask[:, ::-1] for mask in masks]
        kept, doubtful = [], set()
        for thing, mask in zip(things, masks, strict=True):
            if not mask.any():
                continue
            visible = min(thing.mask.sum() * scale**2, 0.25 * mask.size)
            if mask.mean() < LEAST_CELLS or mask.sum() < LEAST_KEPT * visible:
                doubtful.add(thing.name)
            else:
                kept.append(Thing(thing.name, np.ascontiguousarray(mask)))
        # Where one thing of a name is hardly seen, the name is not asked for at all.
        kept = [thing for thing in kept if thing.name not in doubtful]
        picture = Picture(np.ascontiguousarray(pixels), together(kept), False, self.unmarked | doubtful)
        if rng.random() < WITH_CUTOUTS:
            return self.renderer.paste_into(picture, int(rng.integers(1, 4)), rng)
        return picture

    def _box(
        self, photo: Image.Image, things: list[Thing], rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """The whole photo or a part of it around a thing, those of rare names most often."""
        if rng.random() < 0.25 or not things:
            return 0, 0, photo.width, photo.height
        rare = np.array([1 / self.photos_with[thing.name] ** 0.5 for thing in things])
        rare /= np.array([sum(other.name == thing.name for other in things) for thing in things])
        mask = things[int(rng.choice(len(things), p=rare / rare.sum()))].mask
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        shape = float(rng.uniform(0.7, 1.4))
        smallest = max(1.2 * extent, 0.3 * max(photo.size))
        side = float(np.exp(rng.uniform(np.log(smallest), np.log(max(smallest, 1.1 * max(photo.size))))))
        wide, tall = (min(photo.width, round(side * shape**0.5)), min(photo.height, round(side / shape**0.5)))
        # Anywhere around the thing that keeps its middle inside.
        x, y = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
        left = round(float(np.clip(x - rng.uniform(0.2, 0.8) * wide, 0, photo.width - wide)))
        top = round(float(np.clip(y - rng.uniform(0.2, 0.8) * tall, 0, photo.height - tall)))
        return left, top, left + wide, top + tall


def together(things: list[Thing]) -> list[Thing]:
    """The things, those of a name that is seen more than `CROWD` times as one."""
    joined = []
    for name in dict.fromkeys(thing.name for thing in things):
        alike = [thing for thing in things if thing.name == name]
        if len(alike) > CROWD:
            alike = [Thing(name, np.logical_or.reduce([thing.mask for thing in alike]))]
        joined += alike
    return joined
