"""Measure what the scores of a checkpoint are worth on pictures it has not seen, and store that in it.

    python -m recipes.pixellm_mini.score_calibration --photos COCO MORE --cutouts cutouts --model DIR --write

Every photo that training leaves out is asked for the categories it shows and for some that it does not
(`evaluate_photos.asked`); the masks of one answer are one, and so are those of a category. Beside them there
are rendered scenes of unseen cut-outs. A mask is right if its IoU with the truth is at least 0.5.

Prints the expected calibration error before and after, with each half of the pictures calibrated by the
other. `--write` stores the map fitted to all of them in config.json, where the engine finds it; it has to be
done again for other weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model import PromptError, Segmenter, checkpoint
from pixellm_model.engine.segmenter import MINI
from pixellm_model.measuring.calibration import fit_reported
from pixellm_model.measuring.metrics import Scores
from pixellm_model.request import Request
from pixellm_model.samples import Mask
from pixellm_model.synthetic.scenes import SceneRenderer
from recipes.pixellm_mini.evaluate import FIRST_SEED
from recipes.pixellm_mini.evaluate_photos import asked
from recipes.pixellm_mini.names import rendered_names
from recipes.pixellm_mini.photos import Photo, read

# A picture, prompts about it, and the true masks of each.
Questions = tuple[Image.Image, list[tuple[str, list[Mask]]]]


def photo_questions(photos: Sequence[Photo]) -> Iterator[Questions]:
    """Ask about the categories that photos show, and some that they do not."""
    for number, photo in enumerate(photos):
        truths = photo.decoded()
        names = [name for group in asked(photo, number) for name in group]
        masks = [[truths[name]] if name in truths else [] for name in names]
        prompts = [f"Segment the {name} in this image." for name in names]
        yield Image.open(photo.file).convert("RGB"), list(zip(prompts, masks, strict=True))


def scene_questions(cutouts: Path, count: int) -> Iterator[Questions]:
    """Ask the questions of rendered scenes."""
    renderer = SceneRenderer(cutouts, "held_out", names=rendered_names())
    for seed in range(count):
        sample = renderer.render_scene(FIRST_SEED + seed)
        questions = [(question.text, list(question.masks)) for question in sample.questions]
        yield Image.fromarray(sample.image), questions


def measure(segmenter: Segmenter, pictures: Iterator[Questions], joined: bool) -> list[tuple[float, bool]]:
    """Return the score of each predicted mask, and whether it is right.

    Args:
        segmenter: The model, with raw scores.
        pictures: What to ask.
        joined: Whether the masks of an answer count as one, with their mean score.
    """
    scores = Scores()
    for image, questions in pictures:
        prepared = segmenter.prepare(image)
        answers = segmenter.segment_batch([Request(prepared, prompt) for prompt, _ in questions])
        for (_, truth), answer in zip(questions, answers, strict=True):
            if isinstance(answer, PromptError):
                continue
            drawn = [target for target in answer.targets if target.mask.any()]
            masks, raw = [target.mask for target in drawn], [target.score for target in drawn]
            if joined and masks:
                masks, raw = [np.logical_or.reduce(masks)], [float(np.mean(raw))]
            scores.add(masks, truth, raw)
        segmenter.forget()
    return scores.scored


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders in COCO form")
    parser.add_argument("--cutouts", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=60, help="rendered scenes")
    parser.add_argument("--model", type=Path, default=MINI, help="checkpoint folder (default: the mini)")
    parser.add_argument("--write", action="store_true", help="store the map in the folder's config.json")
    args = parser.parse_args()
    segmenter = Segmenter.from_pretrained(args.model)
    segmenter.model.config = segmenter.model.config.with_raw_scores()
    photos = [photo for folder in args.photos for photo in read(folder, kept=True)]
    calibration, report = fit_reported(
        {
            f"{len(photos)} photos": measure(segmenter, photo_questions(photos), joined=True),
            f"{args.scenes} rendered scenes": measure(
                segmenter, scene_questions(args.cutouts, args.scenes), joined=False
            ),
        }
    )
    print("\n".join(report))
    if args.write:
        checkpoint.calibrate(args.model, calibration)
        print(f"stored in {args.model / 'config.json'}")


if __name__ == "__main__":
    main()
