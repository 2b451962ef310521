"""Train the mini on rendered scenes and named photos; run it again to go on where it stopped.

    python -m recipes.pixellm_mini.train --base DIR --cutouts DIR --out DIR --minutes 60

`--init` starts from another run's weights, such as one trained on smaller images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset

from pixellm_model import checkpoint
from pixellm_model.samples import Sample
from pixellm_model.scenes import SceneRenderer
from pixellm_model.training import Recipe, train

NAMES = Path(__file__).with_name("names.txt")


def chosen_names() -> list[str]:
    """The everyday names the mini is taught; the vocabulary holds more than it could learn well."""
    return NAMES.read_text("utf-8").splitlines()


class Scenes(IterableDataset[Sample]):
    """An endless stream of rendered samples; `start` sets where in it a run begins."""

    def __init__(self, cutouts: Path, size: int, start: int):
        self.cutouts, self.size, self.start = cutouts, size, start

    def __iter__(self) -> Iterator[Sample]:
        renderer = SceneRenderer(
            self.cutouts, "train", self.size, scene=0.7, photo=0.15, mosaic=0.15, names=chosen_names()
        )
        seed = self.start
        while True:
            yield renderer.render(seed)
            seed += 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--base", "--cutouts", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--init", type=Path, help="a training.pt to start from")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--lr-language", type=float, default=Recipe.lr_language)
    args = parser.parse_args()
    recipe = Recipe(
        minutes=args.minutes, batch_size=args.batch_size, lr=args.lr, lr_language=args.lr_language
    )
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    if args.init:
        weights = torch.load(args.init, map_location="cpu", weights_only=True)["model"]
        model.load_state_dict(weights, strict=False)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "log.jsonl"
    start = 1_000_000 * len(log.read_text().splitlines()) if log.exists() else 0
    loader = DataLoader(
        Scenes(args.cutouts, model.config.image_size, start),
        batch_size=None,
        num_workers=1,
        prefetch_factor=16,
    )
    for losses in train(model, tokenizer, loader, recipe, args.out):
        line = {key: round(value, 4) for key, value in losses.items()}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    checkpoint.save(model, tokenizer, args.out / "checkpoint")


if __name__ == "__main__":
    main()
