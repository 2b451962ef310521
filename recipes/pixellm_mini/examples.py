"""The card's sheet of prompts and masks on the demo's sample images, failures among them.

python -m recipes.pixellm_mini.examples --model pixellm_model/mini --out pixellm_model/mini/examples.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from pixellm_model import Segmenter
from pixellm_model.measuring.overlay import draw_overlay

SAMPLES = Path(__file__).parents[2] / "demo" / "samples"
# The last two rows are failures; look at them anew when the weights change.
PROMPTS = (
    ("scene_table", "the cup and the book"),
    ("scene_table", "the dog"),
    ("cat", "cat"),
    ("scene_meadow", "the tree and the horse"),
    ("cat", "the dog"),
    ("rocket", "the sky"),
    ("scene_meadow", "all dogs"),
    ("scene_table", "the banana"),
    ("astronaut", "person"),
    ("coffee", "the cup and the spoon"),
    ("coffee", "the table"),
    ("scene_meadow", "the cat"),
)
COLUMNS, WIDTH = 3, 480


def sheet(tiles: list[Image.Image]) -> Image.Image:
    """Tiles in rows of COLUMNS, each row as high as its highest tile."""
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) for row in rows]
    made = Image.new("RGB", (COLUMNS * WIDTH, sum(heights)), (255, 255, 255))
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            made.paste(tile, (column * WIDTH, sum(heights[:number])))
    return made


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped mini)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    segmenter = Segmenter.from_pretrained(arguments.model)
    tiles = []
    for name, prompt in PROMPTS:
        image = Image.open(SAMPLES / f"{name}.jpg").convert("RGB")
        image.thumbnail((WIDTH, 400))
        result = segmenter.segment(image, prompt)
        tiles.append(draw_overlay(image, result.targets, f"{prompt} -> {result.answer}"))
    sheet(tiles).save(arguments.out, quality=85)


if __name__ == "__main__":
    main()
