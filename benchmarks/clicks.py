"""Clicks to a good mask on held-out photos: the trained head, the training-free method and a baseline.

    python -m benchmarks.clicks --photos DIR ... [--objects N] [--from nothing prompt] [--methods ...]

`DIR` holds `images/` and a COCO-form `instances.json`. Only the photos held out by
`recipes.pixellm_mini.click_photos` are used, and of them objects of at least 1 % of the photo. A robot user
clicks at the centre of the largest error until the mask is good or 20 clicks are made (Xu et al., 2016).
Prints the mean number of clicks to an IoU of 0.80 and 0.85 (20 where it was not reached), the share of
objects that never reached it, the IoU before and after 1, 3 and 5 clicks, and milliseconds per click on a
photo whose features are cached.

"--from prompt" asks the mini for the object's name and starts from the mask of its answer that fits best;
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
from pixellm_model.clicks.kernel_refiner import KernelRefiner
from pixellm_model.engine.refiner import Refiner
from pixellm_model.measuring.robot_user import iou, next_click
from pixellm_model.preprocess import ProcessedImage
from pixellm_model.samples import Mask
from recipes.pixellm_mini.click_photos import AnnotatedObject, read_photos

MAX_CLICKS = 20
GOOD_IOU = (0.80, 0.85)
REPORTED_CLICKS = (0, 1, 3, 5)
MIN_AREA = 0.01  # of an object, as a share of the photo
MIN_PROMPT_IOU = 0.1  # of a prompt's mask with the object; below it the object counts as not found


@dataclass(frozen=True)
class Case:
    """One object to annotate.

    Attributes:
        picture: The prepared photo.
        truth: The object's true mask (H, W).
        prompted: The mask (H, W) that the mini gave for its name; None without an answer or a prompt.
    """

    picture: ProcessedImage
    truth: Mask
    prompted: Mask | None


def segmenters_by_method(segmenter: Segmenter) -> dict[str, Callable[[], Segmenter]]:
    """Each method by name, as a function that makes a segmenter with it."""

    def with_refiner(refiner: Refiner) -> Segmenter:
        return Segmenter(segmenter.model, segmenter.tokenizer, segmenter.version, refiner=refiner)

    return {
        "head": lambda: segmenter,
        "training-free": lambda: with_refiner(Refiner(segmenter.model, KernelRefiner())),
        "colour-walker": lambda: with_refiner(Refiner(segmenter.model, ColourWalker())),
    }


def prompted_mask(
    segmenter: Segmenter, picture: ProcessedImage, annotated: AnnotatedObject, answers: dict[str, list[Mask]]
) -> Mask | None:
    """Ask for an object's name.

    Args:
        segmenter: The mini.
        picture: The prepared photo.
        annotated: The object.
        answers: The masks (H, W) of earlier answers on this photo, by name; added to.

    Returns:
        The mask that fits the object best; None where none does.
    """
    if annotated.name not in answers:
        segmentation = segmenter.segment(picture, f"Segment the {annotated.name} in this image.")
        answers[annotated.name] = [target.mask for target in segmentation.targets]
    truth = annotated.mask
    best = max(answers[annotated.name], key=lambda mask: iou(mask, truth), default=None)
    return best if best is not None and iou(best, truth) >= MIN_PROMPT_IOU else None


def cases(segmenter: Segmenter, folders: list[Path], count: int, prompt: bool) -> Iterator[Case]:
    """Draw `count` objects of the held-out photos, the same ones on every run."""
    photos = read_photos(folders, evaluation=True, min_area=MIN_AREA)
    pairs = [(row, number) for row, photo in enumerate(photos) for number in range(len(photo.objects))]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:count]
    by_photo: dict[int, list[int]] = defaultdict(list)
    for index in sorted(chosen):
        row, number = pairs[index]
        by_photo[row].append(number)
    for row, numbers in by_photo.items():
        picture = segmenter.prepare(photos[row].image)
        answers: dict[str, list[Mask]] = {}
        for number in numbers:
            annotated = photos[row].objects[number]
            mask = prompted_mask(segmenter, picture, annotated, answers) if prompt else None
            yield Case(picture, annotated.mask, mask)


def annotate(segmenter: Segmenter, case: Case, start: Mask | None) -> tuple[list[float], list[float]]:
    """Let the robot user annotate one object.

    Args:
        segmenter: Refines by the method under test.
        case: The object.
        start: The mask (H, W) to start from, or None.

    Returns:
        The IoU before the first and after each click, and the seconds that each click took.
    """
    mask = np.zeros(case.truth.shape, bool) if start is None else start
    history, seconds = [iou(mask, case.truth)], list[float]()
    clicks: list[Click] = []
    while len(clicks) < MAX_CLICKS and history[-1] < GOOD_IOU[-1]:
        click = next_click(case.truth, mask, [(int(click.x), int(click.y)) for click in clicks])
        if click is None:
            break
        clicks.append(Click(*click))
        began = time.perf_counter()
        # From nothing, all clicks are passed but no mask; from a mask, each click corrects the latest one.
        mask = segmenter.refine(case.picture, clicks, mask=None if start is None else mask).mask
        seconds.append(time.perf_counter() - began)
        history.append(iou(mask, case.truth))
    return history, seconds


def clicks_needed(history: list[float], good: float) -> int:
    """Number of clicks to an IoU of `good`, MAX_CLICKS where it was not reached."""
    return next((number for number, value in enumerate(history) if value >= good), MAX_CLICKS)


def report(method: str, histories: list[list[float]], seconds: list[float]) -> dict[str, float | str]:
    """Summarise what `annotate` returned for all objects, as a row to print."""
    row: dict[str, float | str] = {"method": method, "objects": len(histories)}
    for good in GOOD_IOU:
        needed = [clicks_needed(history, good) for history in histories]
        row[f"NoC@{good:.2f}"] = round(float(np.mean(needed)), 2)
        row[f"failed@{good:.2f}"] = round(float(np.mean([max(h) < good for h in histories])), 3)
    for number in REPORTED_CLICKS:
        row[f"IoU@{number}"] = round(float(np.mean([h[min(number, len(h) - 1)] for h in histories])), 3)
    if seconds:
        row["p50 ms"], row["p95 ms"] = (round(1000 * float(np.percentile(seconds, p)), 1) for p in (50, 95))
    return row


def main() -> None:
    """Read the arguments, annotate every object with every method, print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--objects", type=int, default=200, help="how many at most (default 200)")
    parser.add_argument("--from", dest="starts", nargs="+", default=["nothing", "prompt"])
    parser.add_argument("--methods", nargs="+", default=["head", "training-free", "colour-walker"])
    arguments = parser.parse_args()
    segmenter = Segmenter.from_pretrained()
    available = segmenters_by_method(segmenter)
    segmenters = {method: available[method]() for method in arguments.methods}
    histories: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for case in cases(segmenter, arguments.photos, arguments.objects, "prompt" in arguments.starts):
        for method, tested in segmenters.items():
            tested.warm_clicks(case.picture)
            for start in arguments.starts:
                if start == "prompt" and case.prompted is None:
                    continue
                history, laps = annotate(tested, case, case.prompted if start == "prompt" else None)
                histories[start, method].append(history)
                seconds[start, method] += laps
    print(f"{torch.get_num_threads()} threads, {arguments.objects} objects at most")
    for (start, method), measured in sorted(histories.items()):
        print(json.dumps({"from": start, **report(method, measured, seconds[start, method])}))


if __name__ == "__main__":
    main()
