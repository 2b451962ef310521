"""Measure a checkpoint on photos with masks that it was not trained on, by free generation.

    python -m recipes.pixellm_mini.evaluate_photos --photos DIR ... [--model DIR] [--out FILE]

Each folder is in COCO form: `images/` and `instances.json`. Of a folder whose sources are known to the
recipe, the photos that training leaves out (`photos.held_out`); with `--all`, all of them. "Segment the
CATEGORY in this image." is asked for every category present, all of whose masks are one, and for ABSENT that
are not.

Prints gIoU (the mean over categories present), the same for each photo's largest category and by the truth's
share of the photo, how often nothing is drawn of what is absent, and the boundary IoU of hits: IoU of the
bands within BAND pixels of both outlines, where the IoU of the masks is at least HIT.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from pixellm_model import Request, Segmentation, Segmenter
from recipes.pixellm_mini.photos import Photo, read

ABSENT, BAND, HIT = 3, 5, 0.5
AREAS = (0.01, 0.05, 0.2)  # shares of the photo between which results are grouped


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def band(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask within BAND of its outline; the photo's edge is one."""
    inner = ndimage.minimum_filter(mask.astype(np.uint8), 2 * BAND + 1, mode="constant", cval=0)
    return mask & ~inner.astype(bool)


def asked(photo: Photo, number: int) -> tuple[list[str], list[str]]:
    """The categories present, and some that are not."""
    absent = sorted(photo.universe - set(photo.masks))
    rng = np.random.default_rng(number)
    return list(photo.masks), [str(name) for name in rng.permutation(absent)[:ABSENT]]


def evaluate(segmenter: Segmenter, photos: list[Photo], wording: str) -> dict[str, object]:
    """The figures of the module's docstring; `wording` holds `{x}` for the category."""
    areas: list[float] = []
    found: list[float] = []
    bands: list[float] = []
    largest: list[float] = []
    silent: list[bool] = []
    denied = 0
    began = time.perf_counter()
    for number, photo in enumerate(photos):
        present, absent = asked(photo, number)
        image = Image.open(photo.file).convert("RGB")
        prepared = segmenter.prepare(image)
        answers = segmenter.segment_batch(
            [Request(prepared, wording.format(x=name)) for name in present + absent]
        )
        truths = photo.decoded()
        scores: dict[str, float] = {}
        for name, answer in zip(present + absent, answers, strict=True):
            assert isinstance(answer, Segmentation)
            masks = [target.mask for target in answer.targets]
            whole = np.logical_or.reduce(masks) if masks else np.zeros(photo.size, bool)
            if name not in truths:
                silent.append(not whole.any())
                continue
            denied += not masks
            truth = truths[name]
            scores[name] = iou(whole, truth)
            areas.append(float(truth.mean()))
            if scores[name] >= HIT:
                bands.append(iou(band(whole), band(truth)))
        found += scores.values()
        if scores:
            largest.append(scores[max(scores, key=lambda name: truths[name].sum())])
        segmenter.forget()
    sizes, results = np.array(areas), np.array(found)
    edges = (0.0, *AREAS, 1.01)
    by_area = {
        f"{low:.0%}-{min(high, 1):.0%}": (round(float(results[here].mean()), 3), int(here.sum()))
        for low, high in itertools.pairwise(edges)
        if (here := (sizes >= low) & (sizes < high)).any()
    }
    return {
        "photos": len(photos),
        "categories": len(results),
        "gIoU": round(float(results.mean()), 3),
        "largest": round(float(np.mean(largest)), 3),
        "silence": round(float(np.mean(silent)), 3),
        "by area": by_area,
        "boundary IoU of hits": round(float(np.mean(bands)), 3) if bands else None,
        "hits": len(bands),
        "denied": denied,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped mini)")
    parser.add_argument("--all", action="store_true", help="the photos that may be trained on too")
    parser.add_argument("--wording", default="Segment the {x} in this image.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    segmenter = Segmenter.from_pretrained(args.model)
    photos = [
        p
        for folder in args.photos
        for kept in ((True, False) if args.all else (True,))
        for p in read(folder, kept)
    ]
    report = {"model": segmenter.version, **evaluate(segmenter, photos, args.wording)}
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
