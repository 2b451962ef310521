"""Prompts that are answered usefully, of 40 on photos that were not trained on, as people type them.

    python -m benchmarks.useful --photos DIR ... [--model DIR] [--prompts 40] [--json]

Each folder is in COCO form; only photos that the recipe holds out are used. Three prompts of four ask for a
category that is there and covers at least LEAST_AREA of the photo, the fourth for one that is not. The
wording changes from prompt to prompt (WORDINGS, one of them with a typing error). Useful is an answer whose
masks together have an IoU of at least HIT with the truth, or one without masks where nothing is there. The
baseline is a worker that never draws anything: one of four.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model import Segmenter
from recipes.pixellm_mini.evaluate_photos import iou
from recipes.pixellm_mini.photos import Photo, read

LEAST_AREA, HIT = 0.01, 0.5
WORDINGS = (
    "the {x}",
    "{x}",
    "Segment the {x}.",
    "THE {x}",
    "all the {x}",
    "please find the {x}",
    "the {typo}",
)
ABSENT_EVERY = 4


@dataclass(frozen=True)
class Prompt:
    """What is asked about a photo.

    Attributes:
        photo: The photo.
        category: What is asked for.
        text: The prompt as typed.
        present: Whether it is there.
    """

    photo: Photo
    category: str
    text: str
    present: bool


def typed_wrong(word: str) -> str:
    """The word with its two middle letters swapped.

    >>> typed_wrong("bottle")
    'botlte'
    """
    middle = len(word) // 2
    return word[:middle] + word[middle : middle + 2][::-1] + word[middle + 2 :]


def prompts(photos: list[Photo], count: int) -> Iterator[Prompt]:
    """Draw `count` prompts on different photos, the same ones on every run."""
    rng = np.random.default_rng(0)
    number = 0
    for index in rng.permutation(len(photos)):
        photo = photos[int(index)]
        present = number % ABSENT_EVERY != ABSENT_EVERY - 1
        candidates = (
            [name for name, mask in photo.decoded().items() if mask.mean() >= LEAST_AREA]
            if present
            else sorted(photo.universe - set(photo.masks))
        )
        if not candidates:
            continue
        category = str(rng.choice(candidates))
        text = WORDINGS[number % len(WORDINGS)].format(x=category, typo=typed_wrong(category))
        yield Prompt(photo, category, text.upper() if text.startswith("THE") else text, present)
        number += 1
        if number == count:
            return


def rows(segmenter: Segmenter, photos: list[Photo], count: int) -> Iterator[dict[str, str | float | bool]]:
    """Each prompt with its answer and whether that is useful."""
    for prompt in prompts(photos, count):
        segmentation = segmenter.segment(Image.open(prompt.photo.file).convert("RGB"), prompt.text)
        drawn = np.zeros(prompt.photo.size, bool)
        for target in segmentation.targets:
            drawn |= target.mask
        truth = prompt.photo.decoded().get(prompt.category, np.zeros(prompt.photo.size, bool))
        overlap = iou(drawn, truth)
        yield {
            "prompt": prompt.text,
            "there": prompt.present,
            "IoU": round(overlap, 2),
            "useful": bool(overlap >= HIT) if prompt.present else not drawn.any(),
            "answer": segmentation.answer,
        }
        segmenter.forget()


def main() -> None:
    """Print each prompt, then how many were answered usefully."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.useful",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped mini)")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print one JSON object per prompt")
    arguments = parser.parse_args()
    photos = [photo for folder in arguments.photos for photo in read(folder, kept=True)]
    segmenter = Segmenter.from_pretrained(arguments.model)
    useful, asked = Counter[bool](), Counter[bool]()
    for row in rows(segmenter, photos, arguments.prompts):
        there = bool(row["there"])
        asked[there] += 1
        useful[there] += bool(row["useful"])
        if arguments.json:
            print(json.dumps(row), flush=True)
        else:
            mark = "+" if row["useful"] else "-"
            print(f"{mark} {row['prompt']!s:34} IoU {row['IoU']:.2f}  {row['answer']}", flush=True)
    total = sum(useful.values())
    print(
        f"{segmenter.version}: {total} of {sum(asked.values())} useful, {useful[True]} of {asked[True]} that "
        f"are there and {useful[False]} of {asked[False]} that are not; "
        f"{total / max(1, asked[False]):.1f} times the baseline",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
