"""Measure a checkpoint on rendered scenes and photos that it has not seen, by free generation.

    python -m recipes.pixellm_mini.evaluate --model DIR --cutouts DIR --samples 60 --coco DIR --out DIR

"New scenes" are unseen arrangements of the cut-outs that were trained on, "new things" scenes of cut-outs
that were not, "photos" held-out photos of one named thing. Prints one line a kind and writes `report.json`
and contact sheets of predictions. `--coco` names a folder with `instances.json` and `images/`: real photos
with true masks. Each category present is asked for, and as many that are absent; masks of one category are
compared as one. The photos that `coco.held_out` keeps were never trained on; the others are reported beside
them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model import Segmenter
from pixellm_model.measuring.metrics import Scores
from pixellm_model.measuring.overlay import draw_overlay
from pixellm_model.samples import PLACEHOLDER, Question, Sample
from pixellm_model.synthetic.scenes import SceneRenderer
from recipes.pixellm_mini.coco import CocoPhotos
from recipes.pixellm_mini.names import rendered_names

SHEET_COLUMNS = 4
FIRST_SEED = 900_000_000  # no picture trained on has a number like this


def coco_samples(folder: Path, train: bool) -> list[Sample]:
    """Real photos with questions about the categories they show, and about as many that they do not."""
    photos = CocoPhotos(folder, rendered_names(), train)
    samples = []
    for image_id in photos.ids:
        present: dict[str, np.ndarray] = {}
        for thing in photos.things(image_id):
            present[thing.name] = present.get(thing.name, np.zeros_like(thing.mask)) | thing.mask
        absent = [name for name in photos.categories if name not in present]
        chosen = np.random.default_rng(image_id).permutation(absent)[: len(present)]
        questions = [
            Question(
                f"Segment the {name} in this image.", f"{name} is {PLACEHOLDER}.", (present[name],), (name,)
            )
            for name in present
        ] + [
            Question(f"Segment the {name} in this image.", f"There is no {name} in this image.", (), ())
            for name in chosen
        ]
        if questions:
            samples.append(Sample(np.array(photos.pixels(image_id)), tuple(questions)))
    return samples


def evaluate(
    model: Path | None, cutouts: Path, count: int, size: int, coco: Path | None, out: Path
) -> dict[str, dict[str, float]]:
    """Evaluate a checkpoint; writes `report.json` and contact sheets to `out`.

    Args:
        model: checkpoint folder; None for the shipped mini.
        cutouts: folder of cut-outs.
        count: samples of each rendered kind.
        size: long side of rendered images in pixels.
        coco: folder with real photos, if there is one.
        out: where to write.

    Returns:
        The metrics of each kind of sample.
    """
    segmenter = Segmenter.from_pretrained(model)
    known = SceneRenderer(cutouts, "train", size, names=rendered_names())
    unknown = SceneRenderer(cutouts, "held_out", size, names=rendered_names())
    kinds: dict[str, list[Sample]] = {
        "new scenes": [known.render_scene(FIRST_SEED + seed) for seed in range(count)],
        "new things": [unknown.render_scene(FIRST_SEED + seed) for seed in range(count)],
        "photos": [unknown.render_photo(FIRST_SEED + seed) for seed in range(count)],
    }
    if coco:
        kinds["coco"] = coco_samples(coco, train=False)
        kinds["coco trained on"] = coco_samples(coco, train=True)
    report: dict[str, dict[str, float]] = {}
    out.mkdir(parents=True, exist_ok=True)
    for kind, samples in kinds.items():
        scores, seconds, tiles = Scores(), 0.0, []
        for sample in samples:
            image = Image.fromarray(sample.image)
            for question in sample.questions:
                began = time.perf_counter()
                result = segmenter.segment(image, question.text, max_new_tokens=128)
                seconds += time.perf_counter() - began
                # A target of which nothing was drawn is shown to nobody.
                masks = [target.mask for target in result.targets if target.mask.any()]
                if kind.startswith("coco") and masks:
                    masks = [np.logical_or.reduce(masks)]
                scores.add(masks, question.masks)
            tiles.append(draw_overlay(image, result.targets, f"{question.text} -> {result.answer}"))
        report[kind] = {**scores.as_dict(), "seconds_a_prompt": round(seconds / scores.questions, 3)}
        print(kind, json.dumps(report[kind]), flush=True)
        _sheet(tiles[:16]).save(out / f"{kind.replace(' ', '_')}.jpg", quality=85)
    (out / "report.json").write_text(json.dumps({"model": segmenter.version, **report}, indent=2) + "\n")
    return report


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    rows = int(np.ceil(len(tiles) / SHEET_COLUMNS))
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, rows * height), (255, 255, 255))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % SHEET_COLUMNS * width, i // SHEET_COLUMNS * height))
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped mini)")
    parser.add_argument("--cutouts", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--coco", type=Path)
    parser.add_argument("--out", type=Path, default=Path("artifacts/evaluation"))
    args = parser.parse_args()
    evaluate(args.model, args.cutouts, args.samples, args.size, args.coco, args.out)
