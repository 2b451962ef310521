"""Rendered scenes of named things with exact masks: training, test and demonstration data.

A folder made by `recipes/pixellm_mini/cutouts.py` holds `vocabulary.json`, RGBA cut-outs (`cutouts.jsonl`),
photos of one named thing with its mask (`photos.jsonl`) and photos of places (`backgrounds/`). Only the
first two are needed.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from pixellm_model.samples import Question, Sample
from pixellm_model.synthetic.backdrops import painted
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import Questioner, Thing

MIN_VISIBLE = 0.35  # of a thing's own area
MIN_AREA = 0.004  # of the image


@dataclass(frozen=True)
class Cutout:
    file: Path
    name: str


@dataclass(frozen=True)
class Photo:
    file: Path
    mask: Path
    name: str


@dataclass(frozen=True)
class Picture:
    """An image (H, W, 3) uint8 and the things in it. `complete` says that these are all there is to see,
    `backdrop` what else the background may show."""

    image: np.ndarray
    things: list[Thing]
    complete: bool
    backdrop: frozenset[str]


class SceneRenderer:
    """Renders samples from a folder of cut-outs; the same seed gives the same sample.

    `split` is "train" or "held_out": other instances of the same names. `size` is the long side in pixels.
    `scene`, `photo` and `mosaic` are the shares of composed scenes, single photos and grids of photos;
    without photos in the folder all are scenes. `names` limits what is shown and asked for,
    `level` how hard the questions are (`Questioner.ask`). Decoded cut-outs are kept in memory (about 0.2 MB
    each). Raises FileNotFoundError without `cutouts.jsonl`,
    ValueError without a cut-out of that split or with one that the vocabulary does not name.
    """

    def __init__(
        self,
        cutouts_dir: str | Path,
        split: str = "train",
        size: int = 336,
        scene: float = 0.6,
        photo: float = 0.25,
        mosaic: float = 0.15,
        names: Collection[str] | None = None,
        level: int = 1,
    ) -> None:
        folder = Path(cutouts_dir)
        if not (folder / "cutouts.jsonl").exists():
            raise FileNotFoundError(
                f"{folder} has no cutouts.jsonl; make it with recipes/pixellm_mini/cutouts.py."
            )
        self.size = size
        self.level = level
        self.nouns = Nouns(folder / "vocabulary.json")
        self.cutouts: dict[str, list[Cutout]] = {}
        for item in _records(folder / "cutouts.jsonl", split, names):
            self.cutouts.setdefault(item["name"], []).append(Cutout(folder / item["file"], item["name"]))
        if not self.cutouts:
            raise ValueError(f"{folder} has no cut-out of the split {split!r}; give train or held_out.")
        if unknown := set(self.cutouts) - set(self.nouns.by_name):
            raise ValueError(f"{folder} has cut-outs of {min(unknown)!r}, which its vocabulary.json lacks.")
        self.photos = [
            Photo(folder / item["file"], folder / item["mask"], item["name"])
            for item in _records(folder / "photos.jsonl", split, names)
        ]
        self.backgrounds = sorted((folder / "backgrounds").glob(f"{split}_*.jpg"))
        self.names = sorted(self.cutouts)
        # Names with many instances are seen more often, but not in proportion.
        weights = np.array([min(len(self.cutouts[name]), 8) ** 0.5 for name in self.names])
        self.name_weights = weights / weights.sum()
        instances = Counter(item.name for item in self.photos)
        weights = np.array([instances[item.name] ** -0.5 for item in self.photos])
        self.photo_weights = weights / weights.sum()
        shares = np.array([scene, photo, mosaic] if self.photos else [1.0, 0.0, 0.0])
        self.shares = shares / shares.sum()
        self._pixels = cache(_rgba)

    def render(self, seed: int) -> Sample:
        """One sample of a kind drawn by the shares, with three to five questions."""
        return self._until_asked(seed, self._kind(seed))

    def picture(self, seed: int) -> Picture:
        """An image of such a kind with the things in it, without questions."""
        make = self._kind(seed)
        made = (make(np.random.default_rng([seed, attempt])) for attempt in count(1))
        return next(picture for picture in made if picture is not None)

    def paste_into(self, picture: Picture, wanted: int, rng: np.random.Generator) -> Picture:
        """The picture with up to `wanted` cut-outs on it."""
        scene = Canvas(picture.image, picture.things)
        self._paste_cast(scene, wanted, rng)
        seen = _photographed(scene.image, rng)
        return Picture(seen, scene.things(), picture.complete, picture.backdrop)

    def _kind(self, seed: int) -> Callable[[np.random.Generator], Picture | None]:
        kinds = (self._scene, self._photo, self._mosaic)
        return kinds[int(np.random.default_rng([seed, 0]).choice(3, p=self.shares))]

    def render_scene(self, seed: int) -> Sample:
        """One to six cut-outs on a photo or a painted background."""
        return self._until_asked(seed, self._scene)

    def render_photo(self, seed: int) -> Sample:
        """One photo with the mask of the thing it shows."""
        return self._until_asked(seed, self._photo)

    def render_mosaic(self, seed: int) -> Sample:
        """Two to four photos in a grid."""
        return self._until_asked(seed, self._mosaic)

    def _until_asked(self, seed: int, make: Callable[[np.random.Generator], Picture | None]) -> Sample:
        for attempt in count(1):
            rng = np.random.default_rng([seed, attempt])
            picture = make(rng)
            if picture is not None and (questions := self._ask(picture, rng)):
                return Sample(picture.image, questions)
        raise AssertionError("count() does not end")

    def _scene(self, rng: np.random.Generator) -> Picture | None:
        image, behind, complete, backdrop = self._background(rng)
        scene = Canvas(image, behind)
        wanted = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.14, 0.24, 0.24, 0.18, 0.12, 0.08]))
        self._paste_cast(scene, wanted, rng)
        things = scene.things()
        return Picture(_photographed(scene.image, rng), things, complete, backdrop) if things else None

    def _paste_cast(self, scene: "Canvas", wanted: int, rng: np.random.Generator) -> None:
        largest = 0.6 if wanted <= 2 else 0.5 if wanted <= 4 else 0.38
        for cutout in self._cast(wanted, rng):
            scene.paste(_varied(self._pixels(cutout.file), self.size, largest, rng), cutout.name, rng)

    def _cast(self, wanted: int, rng: np.random.Generator) -> list[Cutout]:
        """Cut-outs for a scene: often one name several times, often some of one category."""
        names: list[str] = []
        while len(names) < wanted:
            chance = rng.random()
            if names and chance < 0.22:
                names.append(names[-1])
            elif names and chance < 0.4:
                category = self.nouns[names[-1]].category
                alike = [name for name in self.names if self.nouns[name].category == category]
                names.append(alike[int(rng.integers(len(alike)))])
            else:
                names.append(str(rng.choice(self.names, p=self.name_weights)))
        chosen = [self.cutouts[name][int(rng.integers(len(self.cutouts[name])))] for name in names]
        return [chosen[int(index)] for index in rng.permutation(wanted)]

    def _background(self, rng: np.random.Generator) -> tuple[np.ndarray, list[Thing], bool, frozenset[str]]:
        """Pixels, the things already in them, whether these are all there is, and what else may be seen."""
        width = height = self.size
        if rng.random() < 0.4:
            short = int(self.size * rng.uniform(0.6, 1))
            width, height = (self.size, short) if rng.random() < 0.6 else (short, self.size)
        chance = rng.random()
        if chance < 0.25 and self.photos:
            image, thing = self._framed(rng, width, height, float(rng.uniform(1, 1.3)))
            return image, [] if thing is None else [thing], False, self.nouns.backdrop
        if chance < 0.6 and self.backgrounds:
            file = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            photo = Image.open(file).convert("RGB")
            box = _crop_box(photo, (width, height), float(rng.uniform(1, 2)), rng)
            place = photo.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
            return np.asarray(place), [], True, self.nouns.backdrop
        return painted(width, height, rng), [], True, frozenset()

    def _framed(
        self, rng: np.random.Generator, width: int, height: int, zoom: float, kept: float = 0.5
    ) -> tuple[np.ndarray, Thing | None]:
        """A photo cropped to a size, and its thing if `kept` of its share of the image is left."""
        photo = self._any_photo(rng)
        image, mask = Image.open(photo.file).convert("RGB"), Image.open(photo.mask).convert("L")
        return self._crop(photo.name, image, mask, (width, height), zoom, kept, rng)

    def _any_photo(self, rng: np.random.Generator) -> Photo:
        return self.photos[int(rng.choice(len(self.photos), p=self.photo_weights))]

    def _crop(
        self,
        name: str,
        image: Image.Image,
        mask: Image.Image,
        size: tuple[int, int],
        zoom: float,
        kept: float,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Thing | None]:
        box = _crop_box(image, size, zoom, rng)
        pixels = np.array(image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
        visible = np.asarray(mask.resize(size, Image.Resampling.BILINEAR, box=box)) > 127
        if rng.random() < 0.5:
            pixels, visible = pixels[:, ::-1], np.ascontiguousarray(visible[:, ::-1])
        enough = visible.mean() >= max(MIN_AREA, kept * float(np.asarray(mask).mean()) / 255)
        return pixels, Thing(name, visible) if enough else None

    def _photo(self, rng: np.random.Generator) -> Picture | None:
        photo = self._any_photo(rng)
        image, mask = Image.open(photo.file).convert("RGB"), Image.open(photo.mask).convert("L")
        scale = self.size / max(image.size)
        size = (max(32, round(image.width * scale)), max(32, round(image.height * scale)))
        zoom = float(rng.uniform(1, 1.35)) if rng.random() < 0.5 else 1.0
        pixels, thing = self._crop(photo.name, image, mask, size, zoom, 0.7, rng)
        if thing is None:
            return None
        seen = _photographed(_toned(pixels.astype(np.float32), rng, 0.12), rng)
        return Picture(seen, [thing], False, self.nouns.backdrop)

    def _mosaic(self, rng: np.random.Generator) -> Picture | None:
        rows, columns = ((1, 2), (2, 1), (2, 2), (2, 2))[int(rng.integers(4))]
        tile = self.size // max(rows, columns)
        image = np.empty((rows * tile, columns * tile, 3), np.uint8)
        things = []
        for place in range(rows * columns):
            top, left = tile * (place // columns), tile * (place % columns)
            pixels, thing = self._framed(rng, tile, tile, float(rng.uniform(1, 1.2)))
            image[top : top + tile, left : left + tile] = pixels
            if thing is not None:
                mask = np.zeros(image.shape[:2], bool)
                mask[top : top + tile, left : left + tile] = thing.mask
                things.append(Thing(thing.name, mask))
        image = _photographed(image.astype(np.float32), rng)
        return Picture(image, things, False, self.nouns.backdrop) if things else None

    def askable(self, rng: np.random.Generator) -> list[str]:
        """Names that may be asked for although absent, each as often as it is seen."""
        return [str(name) for name in rng.choice(self.names, size=48, p=self.name_weights)]

    def _ask(self, picture: Picture, rng: np.random.Generator) -> tuple[Question, ...]:
        questioner = Questioner(
            self.nouns,
            self.askable(rng),
            picture.things,
            rng,
            picture.complete,
            picture.backdrop,
            image=picture.image,
        )
        return questioner.ask(int(rng.integers(3, 6)), self.level)


class Canvas:
    """A scene in the making; `image` is float32. Things hide those pasted before them."""

    def __init__(self, image: np.ndarray, behind: list[Thing]) -> None:
        self.image = image.astype(np.float32)
        self.names = [thing.name for thing in behind]
        self.masks = [thing.mask for thing in behind]
        self.areas = [int(thing.mask.sum()) for thing in behind]

    def things(self) -> list[Thing]:
        return [Thing(name, mask) for name, mask in zip(self.names, self.masks, strict=True)]

    def paste(self, patch: Image.Image, name: str, rng: np.random.Generator) -> None:
        """At a random place where it and all others stay visible; not at all after eight failed tries."""
        height, width = self.image.shape[:2]
        pixels = np.asarray(patch).astype(np.float32)
        opacity = pixels[:, :, 3] / 255
        solid = opacity > 0.5
        tall, wide = solid.shape
        for _ in range(8):
            top = round(rng.uniform(-0.12 * tall, height - 0.88 * tall))
            left = round(rng.uniform(-0.12 * wide, width - 0.88 * wide))
            inside = (
                slice(max(0, -top), min(tall, height - top)),
                slice(max(0, -left), min(wide, width - left)),
            )
            if inside[0].stop <= inside[0].start or inside[1].stop <= inside[1].start:
                continue
            place = tuple(
                slice(part.start + offset, part.stop + offset)
                for part, offset in zip(inside, (top, left), strict=True)
            )
            if self._fits(place, solid[inside], int(solid.sum())):
                break
        else:
            return
        if rng.random() < 0.4:
            self._shade(place, opacity[inside], rng)
        cover = opacity[inside][:, :, None]
        self.image[place] = self.image[place] * (1 - cover) + pixels[inside][:, :, :3] * cover
        mask = np.zeros((height, width), bool)
        mask[place] = solid[inside]
        for index, other in enumerate(self.masks):
            self.masks[index] = other & ~mask
        self.names.append(name)
        self.masks.append(mask)
        self.areas.append(int(solid.sum()))

    def _fits(self, place: tuple[slice, ...], solid: np.ndarray, area: int) -> bool:
        least = MIN_AREA * self.image.shape[0] * self.image.shape[1]
        if solid.sum() < max(least, 0.6 * area):
            return False
        for mask, whole in zip(self.masks, self.areas, strict=True):
            hidden = int((mask[place] & solid).sum())
            if hidden and mask.sum() - hidden < max(least, MIN_VISIBLE * whole):
                return False
        return True

    def _shade(self, place: tuple[slice, ...], opacity: np.ndarray, rng: np.random.Generator) -> None:
        """A soft shadow beside the thing to be pasted."""
        shift = (int(rng.integers(2, 8)), int(rng.integers(-6, 7)))
        drop = np.roll(np.pad(opacity, 8), shift, axis=(0, 1))[8:-8, 8:-8]  # the rim keeps it from wrapping
        soft = Image.fromarray((drop * 255).astype(np.uint8)).filter(
            ImageFilter.BoxBlur(float(rng.uniform(2, 6)))
        )
        self.image[place] *= 1 - rng.uniform(0.15, 0.5) * np.asarray(soft, np.float32)[:, :, None] / 255


def _records(path: Path, split: str, names: Collection[str] | None) -> list[dict[str, str]]:
    if not path.exists():
        return []
    items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [item for item in items if item["split"] == split and (names is None or item["name"] in names)]


def _rgba(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGBA"))


def _varied(pixels: np.ndarray, size: int, largest: float, rng: np.random.Generator) -> Image.Image:
    """A cut-out (RGBA) resized to 12 % of `size` up to `largest`, flipped, turned and toned."""
    toned = _toned(pixels[:, :, :3].astype(np.float32), rng, 0.2).clip(0, 255).astype(np.uint8)
    patch = Image.fromarray(np.dstack([toned, pixels[:, :, 3]]))
    scale = size * rng.uniform(0.12, largest) / max(patch.size)
    stretch = rng.uniform(0.9, 1.1)
    wide, tall = max(8, round(patch.width * scale * stretch)), max(8, round(patch.height * scale / stretch))
    if rng.random() < 0.5:
        patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    patch = patch.resize((wide, tall), Image.Resampling.BILINEAR, reducing_gap=2.0)
    chance = rng.random()
    if chance < 0.6:
        turn = rng.uniform(-20, 20) if chance < 0.5 else rng.uniform(-180, 180)
        patch = patch.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    return patch


def _toned(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Brightness, contrast, saturation and colour cast changed by up to `strength`."""
    low, high = 1 - strength, 1 + strength
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * rng.uniform(1 - 2 * strength, high)
    cast = rng.uniform(1 - strength / 3, 1 + strength / 3, 3) * rng.uniform(low, high)
    return (image - 128) * (rng.uniform(low, high) * cast).astype(np.float32) + 128 * cast.astype(np.float32)


def _photographed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seen through a camera: sometimes blurred, noisy and compressed. Float in, uint8 out."""
    if rng.random() < 0.35:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 10))
    result = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.25:
        result = result.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.3))))
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        result.save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
        result = Image.open(buffer).convert("RGB")
    return np.array(result)


def _crop_box(
    image: Image.Image, size: tuple[int, int], zoom: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random box with the proportions of `size` (width, height), `zoom` times smaller than fits."""
    scale = min(image.width / size[0], image.height / size[1]) / zoom
    wide, tall = size[0] * scale, size[1] * scale
    # Where a side fits exactly, rounding may leave less than nothing over.
    left, top = rng.uniform(0, max(0.0, image.width - wide)), rng.uniform(0, max(0.0, image.height - tall))
    return left, top, min(left + wide, image.width), min(top + tall, image.height)
