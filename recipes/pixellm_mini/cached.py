"""Rendered pictures with what the frozen towers see in them, on disk: every later step starts from these.

    python -m recipes.pixellm_mini.cached --base DIR --cutouts DIR --out DIR --pictures 6000

The towers never learn, so that they run once per picture instead of once per step. Questions are not kept:
they are asked anew each time a picture is drawn.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pixellm_model import checkpoint
from pixellm_model.config import PixelLMConfig
from pixellm_model.efficientnet import FINER
from pixellm_model.learning.packing import PackedImage, branch_off, shrink_mask
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import process_image
from pixellm_model.samples import PLACEHOLDER, Mask, Question
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import Questioner, Thing
from pixellm_model.synthetic.scenes import Picture, SceneRenderer
from pixellm_model.tokenizer import PromptTokenizer
from recipes.pixellm_mini.coco import CocoCrops, CocoPhotos
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.names import chosen_names, rendered_names
from recipes.pixellm_mini.pause import Clock
from recipes.pixellm_mini.photos import PhotoViews, shippable
from recipes.pixellm_mini.wording import varied

RENDERED = 448  # pixels; the towers see it smaller, as they will see photos
BATCH = 8
QUESTIONS, MAX_TARGETS, SUPPOSED = 8, 12, 3  # a picture, each time it is seen
ASKABLE = 48  # names at once
RARE = 30  # a name seen in fewer pictures is asked for as if it were in so many
VOCABULARY = Path(__file__).with_name("vocabulary.json")
SCENE_SHARE, PHOTO_SHARE, MOSAIC_SHARE = 0.7, 0.15, 0.15


@dataclass(frozen=True)
class CachedPicture:
    """A picture as the towers see it, and the things in it.

    `features`, half precision, are one tensor for each of `PixelLM.tower_features`; `masks` (things, 4g, 4g)
    in 0..255 lie on the padded square.
    """

    features: tuple[torch.Tensor, ...]
    resized: tuple[int, int]
    names: list[str]
    masks: torch.Tensor
    complete: bool
    backdrop: frozenset[str]

    def asked(
        self, texts: list[tuple[str, str]], config: PixelLMConfig, tokenizer: PromptTokenizer
    ) -> PackedImage:
        """Questions with answers about it, for their tokens alone: no masks."""
        prefix, branches = branch_off(texts, config, tokenizer)
        return PackedImage(self.features, self.resized, prefix, branches, torch.zeros(0))


class Pictures(Dataset[tuple[Picture, object]]):
    """Pictures by number, rendered and processed where a worker of the loader runs."""

    def __init__(
        self, source: SceneRenderer | CocoCrops | PhotoViews, first: int, count: int, image_size: int
    ):
        self.source, self.first, self.count, self.image_size = source, first, count, image_size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Picture, object]:
        picture = self.source.picture(self.first + index)
        return picture, process_image(Image.fromarray(picture.image), self.image_size)


class Cache:
    """What `build` wrote to some folders: `features.npy`, `finer.npy` and `pictures.pt` in each."""

    def __init__(self, *folders: Path):
        self.features = [np.load(folder / "features.npy", mmap_mode="r") for folder in folders]
        self.finer = [
            np.load(folder / "finer.npy", mmap_mode="r") if (folder / "finer.npy").exists() else None
            for folder in folders
        ]
        kept = [torch.load(folder / "pictures.pt", weights_only=True) for folder in folders]
        self.records = [record for records in kept for record in records]
        counts = Counter(name for record in self.records for name in set(record["names"]))
        self.names = chosen_names()
        seen = np.array([max(counts[name], RARE) for name in self.names]) ** 0.5
        self.shares = seen / seen.sum()
        self.places = [(part, row) for part, records in enumerate(kept) for row in range(len(records))]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> CachedPicture:
        record, (part, row) = self.records[index], self.places[index]
        features = torch.from_numpy(np.array(self.features[part][row])).unbind(0)
        if (finer := self.finer[part]) is not None:
            features += _unpacked(torch.from_numpy(np.array(finer[row])), round(features[0].shape[0] ** 0.5))
        return CachedPicture(
            features,
            tuple(record["resized"]),
            record["names"],
            record["masks"],
            record["complete"],
            frozenset(record["backdrop"]),
        )

    def askable(self, rng: np.random.Generator) -> list[str]:
        """Names that may be asked for although absent, those often seen more often."""
        return [str(name) for name in rng.choice(self.names, ASKABLE, p=self.shares)]


@torch.inference_mode()
def build(model: PixelLM, pictures: Pictures, out: Path) -> None:
    """Run the towers over pictures and write `features.npy` and `pictures.pt`."""
    config = model.config
    if (second := model.model.vision_tower.second) is not None:
        # The same values, a quarter of the time less; torch's type hints do not know this argument.
        second.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    out.mkdir(parents=True, exist_ok=True)
    shape = (len(pictures), 2, config.grid**2, config.feature_width)
    features = np.lib.format.open_memmap(out / "features.npy", "w+", np.float16, shape)
    finer = None
    if config.pyramid_dim:
        width = 4 * FINER[0] + 16 * FINER[1]  # the values of both maps in each cell of the grid
        size = (len(pictures), width * config.grid**2)
        finer = np.lib.format.open_memmap(out / "finer.npy", "w+", np.float16, size)
    records: list[dict[str, object]] = []
    loader = DataLoader(pictures, BATCH, num_workers=1, prefetch_factor=4, collate_fn=list)
    began = time.monotonic()
    for batch in loader:
        images = [image for _, image in batch]
        with torch.autocast("cpu", torch.bfloat16):
            # One by one: on a CPU a batch only leaves the caches sooner.
            seen = [model.tower_features([image]) for image in images]
        states = [torch.cat(level) for level in zip(*seen, strict=True)]
        place = slice(len(records), len(records) + len(batch))
        features[place] = torch.stack(states[:2], dim=1).half().numpy()  # (B, 2, g*g, C)
        if finer is not None:
            finer[place] = torch.cat([level.flatten(1) for level in states[2:]], dim=1).half().numpy()
        for picture, image in batch:
            side = 4 * config.grid
            shrunk = [
                shrink_mask(thing.mask, image.resized, config.image_size, side) for thing in picture.things
            ]
            masks = torch.stack(shrunk) if shrunk else torch.zeros(0, side, side)
            records.append(
                {
                    "resized": list(image.resized),
                    "names": [thing.name for thing in picture.things],
                    "masks": (255 * masks).round().to(torch.uint8),
                    "complete": picture.complete,
                    "backdrop": sorted(picture.backdrop),
                }
            )
        if len(records) % 400 == 0:
            print(f"{len(records)} pictures in {time.monotonic() - began:.0f} s", flush=True)
    features.flush()
    if finer is not None:
        finer.flush()
    torch.save(records, out / "pictures.pt")


def _unpacked(values: torch.Tensor, grid: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The finer maps, (FINER[0], 2g, 2g) and (FINER[1], 4g, 4g), of their values in one row."""
    middle, shallow = values.split([4 * FINER[0] * grid**2, 16 * FINER[1] * grid**2])
    return middle.view(FINER[0], 2 * grid, 2 * grid), shallow.view(FINER[1], 4 * grid, 4 * grid)


class Claimer(Questioner):
    """Asks as `Questioner` does, and answers with one target a name, there or not.

    A missing name has an empty mask; all things of a name are one, which the engine takes apart.
    """

    def _from_template(
        self, found: list[tuple[str, Mask]], phrases: Sequence[str], missing: Sequence[str] = ()
    ) -> Question | None:
        if missing:
            nothing = np.zeros_like(self.things[0].mask) if self.things else np.zeros((1, 1), bool)
            found = [
                target
                for phrase in phrases
                for target in ([t for t in found if t[0] == phrase] or [(phrase, nothing)])
            ]
        return super()._from_template(found, phrases)

    def question(
        self,
        text: str,
        found: list[tuple[str, Mask]],
        missing: Sequence[str] = (),
        history: tuple[tuple[str, str], ...] = (),
    ) -> Question | None:
        """As `Questioner.question`, with one target for all targets of the same phrase."""
        joined: dict[str, Mask] = {}
        for phrase, mask in found:
            joined[phrase] = joined[phrase] | mask if phrase in joined else mask
        return super().question(text, [*joined.items()], missing, history)


class CachedSamples:
    """An endless stream of packed pictures, each with fresh questions."""

    def __init__(
        self,
        cache: Cache,
        model: PixelLM,
        tokenizer: PromptTokenizer,
        nouns: Nouns,
        seed: int,
        claiming: bool = False,
    ):
        """Choose what to ask about.

        Args:
            cache: The pictures.
            model: The model; only its configuration is used.
            tokenizer: Its tokenizer.
            nouns: The vocabulary.
            seed: Of all random choices.
            claiming: Ask as `Claimer` does: for a pyramid, whose presence decides what is there.
        """
        self.cache, self.config, self.tokenizer = cache, model.config, tokenizer
        self.nouns, self.seed = nouns, seed
        self.asker = Claimer if claiming else Questioner

    def __iter__(self) -> Iterator[PackedImage]:
        rng, clock = np.random.default_rng(self.seed), Clock()
        while True:
            for index in rng.permutation(len(self.cache)):
                clock.spent()  # waits while training is to make way
                yield self.pack(self.cache[int(index)], rng)

    def pack(self, picture: CachedPicture, rng: np.random.Generator) -> PackedImage:
        # The questioner measures masks; the losses want their soft edges.
        """Pack a picture with fresh questions, and negatives for names that it does not show."""
        solid = list((picture.masks > 127).numpy())
        things = [Thing(name, mask) for name, mask in zip(picture.names, solid, strict=True) if mask.any()]
        soft = {id(mask): picture.masks[number] / 255 for number, mask in enumerate(solid)}
        askable = self.cache.askable(rng)
        questioner = self.asker(self.nouns, askable, things, rng, picture.complete, picture.backdrop)
        texts: list[tuple[str, str]] = []
        masks: list[torch.Tensor] = []

        def joined(mask: Mask) -> torch.Tensor:
            """The soft edges of several things that are one target; nothing of a missing one."""
            parts = [soft[id(one)] for one in solid if one.any() and not (one & ~mask).any()]
            return torch.stack(parts).amax(0) if parts else torch.zeros(picture.masks.shape[1:])

        for question in questioner.ask(QUESTIONS):
            if len(masks) + len(question.masks) <= MAX_TARGETS:
                texts.append((varied(question.text, rng), question.answer))
                masks += [soft[id(m)] if id(m) in soft else joined(m) for m in question.masks]
        supposed = [] if self.asker is Claimer else self._missing(picture, askable)
        for name in supposed:
            texts.append((f"the {name}", f"{name} is {PLACEHOLDER}."))
            masks.append(torch.zeros(picture.masks.shape[1:]))
        prefix, branches = branch_off(texts, self.config, self.tokenizer)
        drawn = torch.stack(masks) if masks else torch.zeros(0, *picture.masks.shape[1:])
        return PackedImage(picture.features, picture.resized, prefix, branches, drawn, len(supposed))

    def _missing(self, picture: CachedPicture, askable: list[str]) -> list[str]:
        """Names of what the picture surely does not show."""
        absent = self.nouns.absent
        names = dict.fromkeys(askable)
        return [name for name in names if absent(name, picture.names, picture.backdrop)][:SUPPOSED]


def main() -> None:
    """Render, encode and write the pictures."""
    parser = command(__doc__, "--base", "--cutouts", "--out")
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--first", type=int, default=10_000_000, help="number of the first picture")
    parser.add_argument("--coco", type=Path, help="crops of the photos of this folder instead")
    parser.add_argument("--photos", type=Path, nargs="+", help="views of the photos of these folders instead")
    parser.add_argument("--whole", action="store_true", help="only photos of which all is marked")
    parser.add_argument("--views", type=int, nargs="+", default=[0], help="which views of each photo")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = checkpoint.load(args.base, dtype=torch.float32)
    source: SceneRenderer | CocoCrops
    names = rendered_names()
    source = renderer = SceneRenderer(
        args.cutouts, "train", RENDERED, SCENE_SHARE, PHOTO_SHARE, MOSAIC_SHARE, names
    )
    if args.photos:
        photos = shippable(args.photos, Nouns(VOCABULARY))
        photos = [photo for photo in photos if photo.universe or not args.whole]
        views = PhotoViews(photos, args.views, model.config.image_size, renderer)
        build(model, Pictures(views, 0, len(views), model.config.image_size), args.out)
        return
    if args.coco:
        source = CocoCrops(CocoPhotos(args.coco, names, train=True), renderer, names)
    build(model, Pictures(source, args.first, args.pictures, model.config.image_size), args.out)


if __name__ == "__main__":
    main()
