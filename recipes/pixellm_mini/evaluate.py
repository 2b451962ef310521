"""Measure a checkpoint on held-out rendered scenes and photos, by free generation.

    python -m recipes.pixellm_mini.evaluate --model DIR --cutouts DIR --samples 60 --out DIR

Prints one line a kind and writes `report.json` and a contact sheet of predictions.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model import Segmenter
from pixellm_model.metrics import Scores
from pixellm_model.overlay import draw_overlay
from pixellm_model.scenes import SceneRenderer
from recipes.pixellm_mini.train import chosen_names

SHEET_COLUMNS = 4


def evaluate(
    model: Path | None, cutouts: Path, samples: int, size: int, out: Path
) -> dict[str, dict[str, float]]:
    segmenter = Segmenter.from_pretrained(model)
    renderer = SceneRenderer(cutouts, "held_out", size, names=chosen_names())
    kinds = {"scene": renderer.render_scene, "photo": renderer.render_photo}
    report: dict[str, dict[str, float]] = {}
    out.mkdir(parents=True, exist_ok=True)
    for kind, render in kinds.items():
        scores, seconds, tiles = Scores(), 0.0, []
        for seed in range(samples):
            sample = render(seed)
            image = Image.fromarray(sample.image)
            for question in sample.questions:
                began = time.perf_counter()
                result = segmenter.segment(image, question.text, max_new_tokens=128)
                seconds += time.perf_counter() - began
                scores.add([t.mask for t in result.targets], question.masks)
            tiles.append(draw_overlay(image, result.targets, f"{question.text} -> {result.answer}"))
        report[kind] = {**scores.as_dict(), "seconds_a_prompt": round(seconds / scores.questions, 3)}
        print(kind, json.dumps(report[kind]), flush=True)
        _sheet(tiles[:16]).save(out / f"{kind}.jpg", quality=85)
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
    parser.add_argument("--out", type=Path, default=Path("artifacts/evaluation"))
    args = parser.parse_args()
    evaluate(args.model, args.cutouts, args.samples, args.size, args.out)
