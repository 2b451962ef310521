"""The scenes on which no new version may get worse, and others that are replayed while it learns.

    python -m recipes.pixellm_mini.regression --cutouts DIR --out worker/learning

From the MIT-licensed renders alone, on painted backgrounds: `regression/` and `replay/`, data sets in the
format of docs/data.md. Same cut-outs, same seed, same scenes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model.samples import Sample
from pixellm_model.synthetic.questions import Questioner
from pixellm_model.synthetic.scenes import SceneRenderer
from recipes.pixellm_mini.names import rendered_names
from worker.jobs.masks import to_rle

SIZE = 320
# Questions about what a scene shows, and about what it does not: what is learned from corrections, nearly
# all of them about things that are there, is paid for in these first.
PRESENT, ABSENT = 3, 2
# How many, and the first seed; no picture the mini was trained on has a number like these.
SETS = {"regression": (24, 950_000_000), "replay": (48, 960_000_000)}


def renders_only(cutouts: Path, folder: Path) -> Path:
    """A folder of cut-outs with the renders of `cutouts` and nothing that somebody photographed."""
    lines = (cutouts / "cutouts.jsonl").read_text().splitlines()
    renders = [record for record in map(json.loads, lines) if record["source"] == "emoji"]
    for record in renders:
        record["split"] = "train"
    (folder / "cutouts.jsonl").write_text("\n".join(map(json.dumps, renders)) + "\n")
    (folder / "photos.jsonl").write_text("")
    (folder / "cutouts").symlink_to((cutouts / "cutouts").resolve())
    (folder / "vocabulary.json").symlink_to((cutouts / "vocabulary.json").resolve())
    return folder


def scene(renderer: SceneRenderer, seed: int) -> Sample:
    """One scene with questions about what it shows and about what it does not."""
    picture, rng = renderer.picture(seed), np.random.default_rng(seed)
    asker = Questioner(renderer.nouns, renderer.askable(rng), picture.things, rng, picture.complete)
    missing = {question.text: question for _ in range(ABSENT) if (question := asker.absent())}
    return Sample(picture.image, (*asker.ask(PRESENT), *missing.values()))


def record(number: int, sample: Sample) -> dict[str, object]:
    """A sample in the format of docs/data.md."""
    questions = sample.questions
    height, width = sample.image.shape[:2]
    return {
        "id": f"scene-{number}",
        "file_name": f"{number:02}.webp",
        "height": height,
        "width": width,
        "questions": [question.text for question in questions],
        "answers": [
            [
                {
                    "category_name": phrase,
                    "rephrased_name": phrase,
                    "segmentation": to_rle(mask).model_dump(mode="json"),
                }
                for phrase, mask in zip(question.phrases, question.masks, strict=True)
            ]
            for question in questions
        ],
        "text_answers": [question.answer for question in questions],
        "history": [[list(turn) for turn in question.history] for question in questions],
    }


def main() -> None:
    """Write both data sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cutouts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = renders_only(arguments.cutouts, Path(scratch))
        renderer = SceneRenderer(folder, size=SIZE, names=rendered_names())
        for name, (count, first_seed) in SETS.items():
            images = arguments.out / name / "images"
            images.mkdir(parents=True, exist_ok=True)
            records = []
            for number in range(count):
                sample = scene(renderer, first_seed + number)
                Image.fromarray(sample.image).save(images / f"{number:02}.webp", quality=85)
                records.append(record(number, sample))
            (arguments.out / name / "dataset.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
