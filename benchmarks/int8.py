"""8-bit weights against full precision: answers and masks on held-out rendered scenes, time and size.

    python -m benchmarks.int8 --cutouts DIR [--scenes 20]

`DIR` is the output of `recipes.pixellm_mini.cutouts`; the scenes are those of
`recipes.pixellm_mini.evaluate`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model import Segmentation, Segmenter
from pixellm_model.synthetic.scenes import SceneRenderer
from recipes.pixellm_mini.evaluate import FIRST_SEED
from recipes.pixellm_mini.names import chosen_names


def mask_ious(first: Segmentation, second: Segmentation) -> list[float]:
    """IoU of each pair of masks of two answers with the same text."""
    ious = []
    for left, right in zip(first.targets, second.targets, strict=True):
        union = np.count_nonzero(left.mask | right.mask)
        ious.append(np.count_nonzero(left.mask & right.mask) / union if union else 1.0)
    return ious


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cutouts", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=20)
    arguments = parser.parse_args()
    full, small = Segmenter.from_pretrained(), Segmenter.from_pretrained(dtype="int8")
    renderer = SceneRenderer(arguments.cutouts, "train", 448, names=chosen_names())
    seconds = {full.version: 0.0, small.version: 0.0}
    ious: list[float] = []
    num_questions = num_same = 0
    for number in range(arguments.scenes):
        sample = renderer.render_scene(FIRST_SEED + number)
        image = Image.fromarray(sample.image)
        for question in sample.questions:
            answers = []
            for segmenter in (full, small):
                began = time.perf_counter()
                answers.append(segmenter.segment(image, question.text))
                seconds[segmenter.version] += time.perf_counter() - began
            num_questions += 1
            if answers[0].answer == answers[1].answer:
                num_same += 1
                ious += mask_ious(*answers)
    print(f"{num_questions} questions, {num_same} answered in the same words, {len(ious)} masks in those")
    print(f"mask IoU: mean {np.mean(ious):.4f}, 1st percentile {np.percentile(ious, 1):.4f}")
    for segmenter in (full, small):
        mib = sum(p.nbytes for p in segmenter.model.parameters()) / 2**20
        per_prompt = seconds[segmenter.version] / num_questions
        print(f"{segmenter.version}: {per_prompt:.3f} s a prompt, {mib:.0f} MiB of weights")
    print(f"ratio of seconds: {seconds[full.version] / seconds[small.version]:.2f}")


if __name__ == "__main__":
    main()
