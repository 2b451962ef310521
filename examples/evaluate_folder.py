"""Measure a model on a data set and print the figures and the worst questions.

    python examples/evaluate_folder.py worker/learning/regression --limit 4

The folder is in one of the formats of docs/data.md. Without `--model` the shipped pixellm-mini answers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pixellm_model import Segmenter
from pixellm_model.data import read_samples
from pixellm_model.measuring.evaluation import evaluate


def main() -> None:
    """Measure the data set named on the command line."""
    parser = argparse.ArgumentParser(description="Measure a model on a data set.")
    parser.add_argument("data", type=Path, help="file or folder (docs/data.md)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a PixelLM checkpoint folder")
    parser.add_argument("--split", help="only records of this split")
    parser.add_argument("--limit", type=int, help="at most this many images")
    parser.add_argument("--worst", type=int, default=5, help="how many of the worst questions to print")
    arguments = parser.parse_args()

    samples = read_samples(arguments.data, split=arguments.split, limit=arguments.limit)
    evaluation = evaluate(Segmenter.from_pretrained(arguments.model), samples)
    for name, value in evaluation.figures().items():
        print(f"{name:15} {value}")
    print(f"\nworst {arguments.worst} of {len(evaluation.questions)} questions")
    for row in sorted(evaluation.questions, key=lambda row: row.iou)[: arguments.worst]:
        print(f"  IoU {row.iou:.2f}  {row.question}  ->  {row.answer}")


if __name__ == "__main__":
    main()
