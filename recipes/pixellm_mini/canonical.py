"""Find the wording of a bare name that a checkpoint answers best, for "prompt" in `words.json`.

    python -m recipes.pixellm_mini.canonical --model DIR --cutouts DIR --scenes 40 --coco DIR

Asks for each name in rendered scenes that no training has seen, and in photos with true masks, and for as
many names that are absent, in every wording. Prints for each wording the gIoU (an absent name counts 1 if it
is denied, else 0), and the share of present names that got a mask and of absent ones that got none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model import Segmenter
from pixellm_model.samples import Mask, Pixels
from pixellm_model.synthetic.scenes import SceneRenderer
from recipes.pixellm_mini.coco import CocoPhotos
from recipes.pixellm_mini.evaluate import FIRST_SEED
from recipes.pixellm_mini.names import rendered_names

WORDINGS = (
    "{x}",
    "the {x}",
    "Segment {x}.",
    "Segment the {x}.",
    "segment the {x}",
    "Segment the {x} in this image.",
    "Find the {x}.",
    "Where is the {x}?",
)
Question = tuple[Pixels, str, Mask | None]  # an image, a name, and the pixels of that name; None if absent


def scene_questions(cutouts: Path, count: int, size: int) -> Iterator[Question]:
    """Yield questions about rendered scenes: each name that is there, and as many that are not."""
    renderer = SceneRenderer(cutouts, "train", size, scene=1.0, photo=0.0, mosaic=0.0, names=rendered_names())
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        picture = renderer.picture(seed)
        present: dict[str, Mask] = {}
        for thing in picture.things:
            present[thing.name] = present.get(thing.name, np.zeros_like(thing.mask)) | thing.mask
        absent = [name for name in renderer.names if renderer.nouns.absent(name, present, picture.backdrop)]
        chosen = np.random.default_rng(seed).permutation(absent)[: len(present)]
        for name, mask in present.items():
            yield picture.image, name, mask
        for name in chosen:
            yield picture.image, str(name), None


def photo_questions(folder: Path) -> Iterator[Question]:
    """Yield questions about photos that no training has seen."""
    photos = CocoPhotos(folder, rendered_names(), train=False)
    for image_id in photos.ids:
        pixels = np.array(photos.pixels(image_id))
        present: dict[str, Mask] = {}
        for thing in photos.things(image_id):
            present[thing.name] = present.get(thing.name, np.zeros_like(thing.mask)) | thing.mask
        absent = [name for name in photos.categories if name not in present]
        for name, mask in present.items():
            yield pixels, name, mask
        for name in np.random.default_rng(image_id).permutation(absent)[: len(present)]:
            yield pixels, str(name), None


def measure(segmenter: Segmenter, questions: Sequence[Question], wording: str) -> tuple[float, float, float]:
    """Ask all questions in one wording.

    Returns:
        gIoU, the share of present names that got a mask, and that of absent names that got none.
    """
    present, found, denied = [], [], []
    for pixels, name, truth in questions:
        answer = segmenter.segment(Image.fromarray(pixels), wording.format(x=name), max_new_tokens=128)
        masks = [target.mask for target in answer.targets if target.mask.any()]
        if truth is None:
            denied.append(not masks)
            continue
        found.append(bool(masks))
        mask = np.logical_or.reduce([np.zeros_like(truth), *masks])
        present.append(float((mask & truth).sum() / (mask | truth).sum()))
    return float(np.mean([*present, *denied])), float(np.mean(found)), float(np.mean(denied))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped mini)")
    parser.add_argument("--cutouts", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--coco", type=Path, help="folder with instances.json and images/")
    args = parser.parse_args()
    segmenter = Segmenter.from_pretrained(args.model)
    # Measured is what the model reads, not what is made of it first.
    segmenter.vocabulary = None
    sets = {"scenes": list(scene_questions(args.cutouts, args.scenes, args.size))}
    if args.coco:
        sets["photos"] = list(photo_questions(args.coco))
    for name, questions in sets.items():
        print(f"{name}: {len(questions)} questions", flush=True)
        for wording in WORDINGS:
            giou, found, denied = measure(segmenter, questions, wording)
            print(f"{wording:32} gIoU {giou:.3f}  found {found:.3f}  denied {denied:.3f}", flush=True)


if __name__ == "__main__":
    main()
