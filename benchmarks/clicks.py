"""Clicks to a good mask on photos kept aside: the trained head, the training-free method and a baseline.

    python -m benchmarks.clicks --photos DIR ... [--objects N] [--from nothing prompt] [--methods ...]

`DIR` holds `images/` and a COCO-form `instances.json`; only what `recipes.pixellm_mini.click_photos` keeps
aside is measured on, objects of at least 1 % of the photo. A simulated annotator clicks at the centre of
the largest error until the mask is good or 20 clicks are made (Xu et al. 2016). Prints the mean number of
clicks to an IoU of 0.80 and 0.85 (20 where it was not reached), the share of objects that never reached it,
the IoU before and after 1, 3 and 5 clicks, and milliseconds a click on a photo whose features are known.

"From prompt" asks the mini for the object's name and starts from the mask of its answer that fits best;
objects of which it finds nothing are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.click_baseline import ColourWalker
from pixellm_model import Click, Segmenter
from pixellm_model.clicks.kernel import KernelRefiner
from pixellm_model.engine.refiner import Refiner
from pixellm_model.measuring.robot_user import iou, next_click
from pixellm_model.preprocess import ProcessedImage
from recipes.pixellm_mini.click_photos import MarkedObject, read_photos

MOST_CLICKS = 20
GOOD = (0.80, 0.85)
SMALLEST = 0.01  # of the photo
FOUND = 0.1  # IoU from which a prompt's mask counts as one of the object


@dataclass(frozen=True)
class Case:
    """One object to be annotated."""

    picture: ProcessedImage
    truth: np.ndarray
    prompted: np.ndarray | None


def methods(segmenter: Segmenter) -> dict[str, Callable[[], Segmenter]]:
    """Each method by name, as a segmenter that refines by it."""

    def with_refiner(refiner: Refiner) -> Segmenter:
        return Segmenter(segmenter.model, segmenter.tokenizer, segmenter.version, refiner=refiner)

    return {
        "head": lambda: segmenter,
        "training-free": lambda: with_refiner(Refiner(segmenter.model, KernelRefiner())),
        "colour-walker": lambda: with_refiner(Refiner(segmenter.model, ColourWalker())),
    }


def prompted_mask(
    segmenter: Segmenter, picture: ProcessedImage, thing: MarkedObject, answers: dict[str, list[np.ndarray]]
) -> np.ndarray | None:
    """The mask of the mini's answer that fits the object best, None where none does."""
    if thing.name not in answers:
        found = segmenter.segment(picture, f"Segment the {thing.name} in this image.")
        answers[thing.name] = [target.mask for target in found.targets]
    truth = thing.mask
    best = max(answers[thing.name], key=lambda mask: iou(mask, truth), default=None)
    return best if best is not None and iou(best, truth) >= FOUND else None


def cases(segmenter: Segmenter, folders: list[Path], count: int, prompt: bool) -> Iterator[Case]:
    """Objects of the photos kept aside, `count` of them drawn the same way on every run."""
    photos = read_photos(folders, True, SMALLEST)
    every = [(row, at) for row, photo in enumerate(photos) for at in range(len(photo.objects))]
    chosen = np.random.default_rng(0).permutation(len(every))[:count]
    by_photo: dict[int, list[int]] = defaultdict(list)
    for number in sorted(chosen):
        by_photo[every[number][0]].append(every[number][1])
    for row, numbers in by_photo.items():
        picture = segmenter.prepare(photos[row].image)
        assert isinstance(picture, ProcessedImage)
        answers: dict[str, list[np.ndarray]] = {}
        for at in numbers:
            thing = photos[row].objects[at]
            mask = prompted_mask(segmenter, picture, thing, answers) if prompt else None
            yield Case(picture, thing.mask, mask)


def annotate(segmenter: Segmenter, case: Case, begin: np.ndarray | None) -> tuple[list[float], list[float]]:
    """IoU before the first and after each click, and the seconds each click took."""
    mask = np.zeros(case.truth.shape, bool) if begin is None else begin
    history, seconds = [iou(mask, case.truth)], list[float]()
    clicks: list[Click] = []
    while len(clicks) < MOST_CLICKS and history[-1] < GOOD[-1]:
        wrong = next_click(case.truth, mask, [(int(click.x), int(click.y)) for click in clicks])
        if wrong is None:
            break
        clicks.append(Click(*wrong))
        began = time.perf_counter()
        # What was clicked from nothing is drawn anew from all clicks; a mask that was given is corrected.
        mask = segmenter.refine(case.picture, clicks, mask=None if begin is None else mask).mask
        seconds.append(time.perf_counter() - began)
        history.append(iou(mask, case.truth))
    return history, seconds


def clicks_to(history: list[float], good: float) -> int:
    """How many clicks it took, MOST_CLICKS where it was never so good."""
    return next((number for number, value in enumerate(history) if value >= good), MOST_CLICKS)


def report(name: str, histories: list[list[float]], seconds: list[float]) -> dict[str, float | str]:
    row: dict[str, float | str] = {"method": name, "objects": len(histories)}
    for good in GOOD:
        needed = [clicks_to(history, good) for history in histories]
        row[f"NoC@{good:.2f}"] = round(float(np.mean(needed)), 2)
        row[f"failed@{good:.2f}"] = round(float(np.mean([max(h) < good for h in histories])), 3)
    for number in (0, 1, 3, 5):
        row[f"IoU@{number}"] = round(float(np.mean([h[min(number, len(h) - 1)] for h in histories])), 3)
    if seconds:
        row["p50 ms"], row["p95 ms"] = (round(1000 * float(np.percentile(seconds, p)), 1) for p in (50, 95))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--objects", type=int, default=200, help="how many at most (default 200)")
    parser.add_argument("--from", dest="begin", nargs="+", default=["nothing", "prompt"])
    parser.add_argument("--methods", nargs="+", default=["head", "training-free", "colour-walker"])
    arguments = parser.parse_args()
    segmenter = Segmenter.from_pretrained()
    used = {name: methods(segmenter)[name]() for name in arguments.methods}
    histories: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for case in cases(segmenter, arguments.photos, arguments.objects, "prompt" in arguments.begin):
        for name, one in used.items():
            one.warm_clicks(case.picture)
            for begin in arguments.begin:
                if begin == "prompt" and case.prompted is None:
                    continue
                made, took = annotate(one, case, case.prompted if begin == "prompt" else None)
                histories[begin, name].append(made)
                seconds[begin, name] += took
    print(f"{torch.get_num_threads()} threads, {arguments.objects} objects at most")
    for (begin, name), every in sorted(histories.items()):
        print(json.dumps({"from": begin, **report(name, every, seconds[begin, name])}))


if __name__ == "__main__":
    main()
