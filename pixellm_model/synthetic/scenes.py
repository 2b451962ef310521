"""Renders scenes of named things with exact masks, for training, tests and demonstrations.

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
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from pixellm_model.samples import Pixels, Question, Sample
from pixellm_model.synthetic.backdrops import painted
from pixellm_model.synthetic.canvas import MIN_AREA, Canvas
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import Questioner, Thing

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Cutout:
    """An RGBA image of one thing, cut out."""

    file: Path
    name: str


@dataclass(frozen=True)
class Photo:
    """A photo of one thing, and its mask as an image."""

    file: Path
    mask: Path
    name: str


@dataclass(frozen=True)
class Picture:
    """An image and the things in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        things: The things.
        complete: Whether they are everything to see, apart from the background.
        backdrop: Names that the background may show.
    """

    image: Pixels
    things: list[Thing]
    complete: bool
    backdrop: frozenset[str]


class SceneRenderer:
    """Renders samples from a folder of cut-outs; the same seed gives the same sample.

    Decoded cut-outs are cached in memory (about 0.2 MB each).

    Args:
        cutouts_dir: The folder.
        split: "train" or "held_out", which has other instances of the same names.
        size: Long side of the images in pixels.
        scene: Share of composed scenes. Without photos in the folder all images are scenes.
        photo: Share of single photos.
        mosaic: Share of grids of photos.
        names: Only these names are shown and asked for.
        level: How hard the questions are (`Questioner.ask`).

    Raises:
        FileNotFoundError: The folder has no `cutouts.jsonl`.
        ValueError: There is no cut-out of the split, or one whose name the vocabulary lacks.
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
        # Names with many instances are shown more often, but less than proportionally.
        weights = np.array([min(len(self.cutouts[name]), 8) ** 0.5 for name in self.names])
        self.name_weights = weights / weights.sum()
        instances = Counter(item.name for item in self.photos)
        weights = np.array([instances[item.name] ** -0.5 for item in self.photos])
        self.photo_weights = weights / weights.sum()
        shares = np.array([scene, photo, mosaic] if self.photos else [1.0, 0.0, 0.0])
        self.shares = shares / shares.sum()
        self._pixels = cache(_rgba)

    def render(self, seed: int) -> Sample:
        """A sample of a random kind (scene, photo or mosaic), with three to five questions."""
        return self._render_until_questions(seed, self._kind(seed))

    def picture(self, seed: int) -> Picture:
        """An image of a random kind with the things in it, without questions."""
        make = self._kind(seed)
        attempts = (make(np.random.default_rng([seed, attempt])) for attempt in count(1))
        return next(picture for picture in attempts if picture is not None)

    def paste_into(self, picture: Picture, wanted: int, rng: np.random.Generator) -> Picture:
        """The picture with up to `wanted` cut-outs pasted on it."""
        scene = Canvas(picture.image, picture.things)
        self._paste_cast(scene, wanted, rng)
        seen = _add_camera_noise(scene.image, rng)
        return Picture(seen, scene.things(), picture.complete, picture.backdrop)

    def _kind(self, seed: int) -> Callable[[np.random.Generator], Picture | None]:
        kinds = (self._scene, self._photo, self._mosaic)
        return kinds[int(np.random.default_rng([seed, 0]).choice(3, p=self.shares))]

    def render_scene(self, seed: int) -> Sample:
        """A sample with one to six cut-outs on a photo or a painted background."""
        return self._render_until_questions(seed, self._scene)

    def render_photo(self, seed: int) -> Sample:
        """A sample with one photo of one thing."""
        return self._render_until_questions(seed, self._photo)

    def _render_until_questions(
        self, seed: int, make: Callable[[np.random.Generator], Picture | None]
    ) -> Sample:
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
        return Picture(_add_camera_noise(scene.image, rng), things, complete, backdrop) if things else None

    def _paste_cast(self, scene: Canvas, wanted: int, rng: np.random.Generator) -> None:
        largest = 0.6 if wanted <= 2 else 0.5 if wanted <= 4 else 0.38
        for cutout in self._cast(wanted, rng):
            scene.paste(_augment_cutout(self._pixels(cutout.file), self.size, largest, rng), cutout.name, rng)

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

    def _background(
        self, rng: np.random.Generator
    ) -> tuple[npt.NDArray[Any], list[Thing], bool, frozenset[str]]:
        """Pixels (H, W, 3), then the things in them, `complete` and `backdrop` as in `Picture`."""
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
        self, rng: np.random.Generator, width: int, height: int, zoom: float, min_share: float = 0.5
    ) -> tuple[Pixels, Thing | None]:
        """A photo cropped to a size, and its thing if at least `min_share` of its area stays in the image."""
        photo = self._any_photo(rng)
        image, mask = Image.open(photo.file).convert("RGB"), Image.open(photo.mask).convert("L")
        return self._crop(photo.name, image, mask, (width, height), zoom, min_share, rng)

    def _any_photo(self, rng: np.random.Generator) -> Photo:
        return self.photos[int(rng.choice(len(self.photos), p=self.photo_weights))]

    def _crop(
        self,
        name: str,
        image: Image.Image,
        mask: Image.Image,
        size: tuple[int, int],
        zoom: float,
        min_share: float,
        rng: np.random.Generator,
    ) -> tuple[Pixels, Thing | None]:
        box = _crop_box(image, size, zoom, rng)
        pixels = np.array(image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
        visible = np.asarray(mask.resize(size, Image.Resampling.BILINEAR, box=box)) > 127
        if rng.random() < 0.5:
            pixels, visible = pixels[:, ::-1], np.ascontiguousarray(visible[:, ::-1])
        enough = visible.mean() >= max(MIN_AREA, min_share * float(np.asarray(mask).mean()) / 255)
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
        seen = _add_camera_noise(_jitter_colour(pixels.astype(np.float32), rng, 0.12), rng)
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
        seen = _add_camera_noise(image.astype(np.float32), rng)
        return Picture(seen, things, False, self.nouns.backdrop) if things else None

    def askable(self, rng: np.random.Generator) -> list[str]:
        """Names that may be asked for although absent, each as often as it is shown."""
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


def _records(path: Path, split: str, names: Collection[str] | None) -> list[dict[str, str]]:
    if not path.exists():
        return []
    items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [item for item in items if item["split"] == split and (names is None or item["name"] in names)]


def _rgba(file: Path) -> Pixels:
    return np.asarray(Image.open(file).convert("RGBA"))


def _augment_cutout(pixels: Pixels, size: int, largest: float, rng: np.random.Generator) -> Image.Image:
    """A cut-out (H, W, 4) resized to 12 % of `size` up to `largest`, flipped, rotated and recoloured."""
    toned = _jitter_colour(pixels[:, :, :3].astype(np.float32), rng, 0.2).clip(0, 255).astype(np.uint8)
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


def _jitter_colour(image: FloatArray, rng: np.random.Generator, strength: float) -> FloatArray:
    """Brightness, contrast, saturation and colour cast changed by up to `strength`."""
    low, high = 1 - strength, 1 + strength
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * rng.uniform(1 - 2 * strength, high)
    cast = rng.uniform(1 - strength / 3, 1 + strength / 3, 3) * rng.uniform(low, high)
    return (image - 128) * (rng.uniform(low, high) * cast).astype(np.float32) + 128 * cast.astype(np.float32)


def _add_camera_noise(image: FloatArray, rng: np.random.Generator) -> Pixels:
    """Add camera noise, blur and JPEG compression, each at random."""
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
    # Where a side fits exactly, rounding can make the difference negative.
    left, top = rng.uniform(0, max(0.0, image.width - wide)), rng.uniform(0, max(0.0, image.height - tall))
    return left, top, min(left + wide, image.width), min(top + tall, image.height)
