"""Find how a checkpoint answers bare names best, for "prompt" and "one_by_one" in `words.json`.

    python -m recipes.pixellm_mini.canonical --model DIR --cutouts DIR --scenes 40 --coco DIR

Asks for each name in rendered scenes that no training has seen, and in photos with true masks, and for as
many names that are absent, in every wording. Prints for each wording the gIoU (an absent name counts 1 if it
is denied, else 0), and the share of present names that got a mask and of absent ones that got none. Then asks
for the same names three at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model import Segmenter
from pixellm_model.samples import Mask, Pixels
from pixellm_model.synthetic.scenes import SceneRenderer
from pixellm_model.synthetic.templates import listed
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
LIST = "segment {x}"
NAMES_IN_A_LIST = 3
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
    return scores(
        (truth, masks_by_name(segmenter, pixels, wording.format(x=name)).values())
        for pixels, name, truth in questions
    )


def measure_lists(segmenter: Segmenter, questions: Sequence[Question]) -> tuple[float, float, float]:
    """Ask for the names of each image in lists; returns what `measure` does."""
    answers: list[tuple[Mask | None, Iterable[Mask]]] = []
    for _, of_image in groupby(questions, key=lambda question: id(question[0])):
        asked = list(of_image)
        np.random.default_rng(len(answers)).shuffle(asked)  # type: ignore[arg-type]  # a list may be shuffled
        for start in range(0, len(asked), NAMES_IN_A_LIST):
            group = asked[start : start + NAMES_IN_A_LIST]
            prompt = LIST.format(x=listed([f"the {name}" for _, name, _ in group]))
            found = masks_by_name(segmenter, group[0][0], prompt)
            answers += [(truth, [found[name]] if name in found else []) for _, name, truth in group]
    return scores(answers)


def masks_by_name(segmenter: Segmenter, pixels: Pixels, prompt: str) -> dict[str, Mask]:
    """Return what a prompt is answered with, the masks of a phrase as one."""
    found: dict[str, Mask] = {}
    for target in segmenter.segment(Image.fromarray(pixels), prompt, max_new_tokens=128).targets:
        found[target.phrase] = found.get(target.phrase, np.zeros_like(target.mask)) | target.mask
    return found


def scores(answers: Iterable[tuple[Mask | None, Iterable[Mask]]]) -> tuple[float, float, float]:
    """Compare masks with the true ones, as `measure` describes."""
    present, found, denied = [], [], []
    for truth, predicted in answers:
        masks = [mask for mask in predicted if mask.any()]
        if truth is None:
            denied.append(not masks)
            continue
        found.append(bool(masks))
        mask = np.logical_or.reduce([np.zeros_like(truth), *masks])
        present.append(float((mask & truth).sum() / (mask | truth).sum()))
    return float(np.mean([*present, *denied])), float(np.mean(found)), float(np.mean(denied))


def report(wording: str, figures: tuple[float, float, float]) -> None:
    """Print one line of the table."""
    giou, found, denied = figures
    print(f"{wording:32} gIoU {giou:.3f}  found {found:.3f}  denied {denied:.3f}", flush=True)


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
            report(wording, measure(segmenter, questions, wording))
        report(f"{LIST}, {NAMES_IN_A_LIST} at a time", measure_lists(segmenter, questions))


if __name__ == "__main__":
    main()
