"""Fine-tuning on street photos with a mask per class: mean IoU before and after.

    python -m benchmarks.street --photos DIR [--epochs N] [--out DIR]

`DIR` holds `images/`, `masks/` (one class number per pixel) and `classes.json`. Every fourth photo is held
out. Each class is asked for by "Segment the CLASS.", and all masks of an answer are merged. Prints the mean
over classes of intersection over union for the shipped mini and for the adapter, and the seconds of training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixellm_model import Request, Segmentation, Segmenter
from pixellm_model.learning.finetune import fine_tune
from pixellm_model.learning.recipe import FineTuneRecipe
from pixellm_model.samples import PLACEHOLDER, Question, Sample


class StreetPhotos:
    """Photos as samples, with one question per class."""

    def __init__(self, folder: Path, held_out: bool):
        self.classes: dict[int, str] = _classes(folder)
        paths = sorted((folder / "masks").glob("*.png"))
        self.masks = [path for number, path in enumerate(paths) if (number % 4 == 0) == held_out]
        self._images = folder / "images"

    def __len__(self) -> int:
        return len(self.masks)

    def image(self, index: int) -> Image.Image:
        """A photo."""
        (path,) = self._images.glob(f"{self.masks[index].stem}.*")
        return Image.open(path).convert("RGB")

    def truth(self, index: int) -> npt.NDArray[np.uint8]:
        """A photo's class numbers, (H, W)."""
        return np.asarray(Image.open(self.masks[index]))

    def __getitem__(self, index: int) -> Sample:
        truth = self.truth(index)
        questions = []
        for number, name in self.classes.items():
            mask = truth == number
            if mask.any():
                text = f"{name} is {PLACEHOLDER}."
                questions.append(Question(f"Segment the {name}.", text, (mask,), (name,)))
            else:
                text = f"There is no {name} in this image."
                questions.append(Question(f"Segment the {name}.", text, (), ()))
        return Sample(np.array(self.image(index)), tuple(questions))


def _classes(folder: Path) -> dict[int, str]:
    """Names by class number, without "unlabelled"."""
    names = json.loads((folder / "classes.json").read_text())
    return {number: name for number, name in enumerate(names) if name != "unlabelled"}


def mean_iou(segmenter: Segmenter, photos: StreetPhotos) -> tuple[float, dict[str, float]]:
    """The mean over classes of a model's IoU, and each class's IoU by name."""
    intersection = dict.fromkeys(photos.classes, 0)
    union = dict.fromkeys(photos.classes, 0)
    for index in range(len(photos)):
        picture, truth = segmenter.prepare(photos.image(index)), photos.truth(index)
        requests = [Request(picture, f"Segment the {name}.") for name in photos.classes.values()]
        for number, answer in zip(photos.classes, segmenter.segment_batch(requests), strict=True):
            assert isinstance(answer, Segmentation)
            predicted = np.zeros(truth.shape, bool)
            for target in answer.targets:
                predicted |= target.mask
            intersection[number] += int((predicted & (truth == number)).sum())
            union[number] += int((predicted | (truth == number)).sum())
    by_class = {name: intersection[n] / union[n] for n, name in photos.classes.items() if union[n]}
    return float(np.mean(list(by_class.values()))), by_class


def main() -> None:
    """Train, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--lr", type=float, default=FineTuneRecipe.lr)
    parser.add_argument("--out", type=Path, help="folder of the run (default: a temporary one)")
    arguments = parser.parse_args()
    train, held_out = StreetPhotos(arguments.photos, False), StreetPhotos(arguments.photos, True)
    segmenter = Segmenter.from_pretrained()
    before, _ = mean_iou(segmenter, held_out)
    print(f"{len(train)} photos to learn from, {len(held_out)} to measure on; before: mean IoU {before:.3f}")
    recipe = FineTuneRecipe(
        epochs=arguments.epochs,
        lr=arguments.lr,
        batch_size=2,
        max_targets=11,
        dice_weight=1.0,
        align_weight=1.0,
    )
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        folder = fine_tune(None, train, recipe, arguments.out or Path(scratch))
        seconds = time.perf_counter() - began
        after, by_class = mean_iou(segmenter.with_adapter(folder), held_out)
    print(f"after {seconds:.0f} s: mean IoU {after:.3f} ({after / max(before, 1e-3):.1f} times)")
    for name, iou in by_class.items():
        print(f"  {name:12} {iou:.3f}")


if __name__ == "__main__":
    main()
