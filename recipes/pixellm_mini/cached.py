"""Rendered pictures with what the frozen towers see in them, on disk: every later step starts from these.

    python -m recipes.pixellm_mini.cached --base DIR --cutouts DIR --out DIR --pictures 6000

The towers never learn, so that they run once per picture instead of once per step. Questions are not kept:
they are asked anew each time a picture is drawn.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pixellm_model import checkpoint
from pixellm_model.config import PixelLMConfig
from pixellm_model.learning.packing import PackedImage, branch_off, shrink_mask
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import process_image
from pixellm_model.samples import PLACEHOLDER
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import Questioner, Thing
from pixellm_model.synthetic.scenes import Picture, SceneRenderer
from pixellm_model.tokenizer import PromptTokenizer
from recipes.pixellm_mini.coco import CocoCrops, CocoPhotos
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.names import chosen_names

RENDERED = 448  # pixels; the towers see it smaller, as they will see photos
BATCH = 8
QUESTIONS, MAX_TARGETS, SUPPOSED = 8, 12, 3  # a picture, each time it is seen
ASKABLE = 48  # names at once
RARE = 30  # a name seen in fewer pictures is asked for as if it were in so many
SCENE_SHARE, PHOTO_SHARE, MOSAIC_SHARE = 0.7, 0.15, 0.15


@dataclass(frozen=True)
class CachedPicture:
    """`features` (2, g*g, C) half precision; `masks` (things, 4g, 4g) in 0..255 on the padded square."""

    features: torch.Tensor
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

    def __init__(self, source: SceneRenderer | CocoCrops, first: int, count: int, image_size: int):
        self.source, self.first, self.count, self.image_size = source, first, count, image_size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Picture, object]:
        picture = self.source.picture(self.first + index)
        return picture, process_image(Image.fromarray(picture.image), self.image_size)


class Cache:
    """What `build` wrote to some folders: `features.npy` and `pictures.pt` in each."""

    def __init__(self, *folders: Path):
        self.features = [np.load(folder / "features.npy", mmap_mode="r") for folder in folders]
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
        return CachedPicture(
            torch.from_numpy(np.array(self.features[part][row])),
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
    out.mkdir(parents=True, exist_ok=True)
    shape = (len(pictures), 2, config.grid**2, config.feature_width)
    features = np.lib.format.open_memmap(out / "features.npy", "w+", np.float16, shape)
    records: list[dict[str, object]] = []
    loader = DataLoader(pictures, BATCH, num_workers=1, prefetch_factor=4, collate_fn=list)
    began = time.monotonic()
    for batch in loader:
        images = [image for _, image in batch]
        with torch.autocast("cpu", torch.bfloat16):
            states = torch.stack(model.tower_features(images), dim=1)  # (B, 2, g*g, C)
        features[len(records) : len(records) + len(batch)] = states.half().numpy()
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
    torch.save(records, out / "pictures.pt")


class CachedSamples:
    """An endless stream of packed pictures, each with fresh questions."""

    def __init__(self, cache: Cache, model: PixelLM, tokenizer: PromptTokenizer, nouns: Nouns, seed: int):
        self.cache, self.config, self.tokenizer = cache, model.config, tokenizer
        self.nouns, self.seed = nouns, seed

    def __iter__(self) -> Iterator[PackedImage]:
        rng = np.random.default_rng(self.seed)
        while True:
            for index in rng.permutation(len(self.cache)):
                yield self.pack(self.cache[int(index)], rng)

    def pack(self, picture: CachedPicture, rng: np.random.Generator) -> PackedImage:
        # The questioner measures masks; the losses want their soft edges.
        """Pack a picture with fresh questions, and negatives for names that it does not show."""
        solid = list((picture.masks > 127).numpy())
        things = [Thing(name, mask) for name, mask in zip(picture.names, solid, strict=True) if mask.any()]
        soft = {id(mask): picture.masks[number] / 255 for number, mask in enumerate(solid)}
        askable = self.cache.askable(rng)
        questioner = Questioner(self.nouns, askable, things, rng, picture.complete, picture.backdrop)
        texts: list[tuple[str, str]] = []
        masks: list[torch.Tensor] = []
        for question in questioner.ask(QUESTIONS):
            if len(masks) + len(question.masks) <= MAX_TARGETS:
                texts.append((question.text, question.answer))
                masks += [soft[id(mask)] for mask in question.masks]
        supposed = self._missing(picture, askable)
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
    args = parser.parse_args()
    model, _ = checkpoint.load(args.base, dtype=torch.float32)
    names = chosen_names()
    source: SceneRenderer | CocoCrops
    source = renderer = SceneRenderer(
        args.cutouts, "train", RENDERED, SCENE_SHARE, PHOTO_SHARE, MOSAIC_SHARE, names
    )
    if args.coco:
        source = CocoCrops(CocoPhotos(args.coco, names, train=True), renderer, names)
    build(model, Pictures(source, args.first, args.pictures, model.config.image_size), args.out)


if __name__ == "__main__":
    main()
