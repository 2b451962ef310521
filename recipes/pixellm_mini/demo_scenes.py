"""The demo's rendered scenes, from the MIT-licensed renders alone.

python -m recipes.pixellm_mini.demo_scenes --cutouts DIR --out demo/samples
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (900, 600)
# Name, place of the centre, long side in pixels.
SCENES = {
    "scene_table": [
        ("cup", 190, 330, 230),
        ("book", 440, 390, 260),
        ("apple", 660, 330, 170),
        ("banana", 760, 480, 190),
        ("teapot", 480, 160, 220),
    ],
    "scene_meadow": [
        ("dog", 200, 400, 250),
        ("cat", 480, 440, 210),
        ("car", 720, 280, 230),
        ("tree", 430, 190, 260),
        ("dog", 780, 490, 150),
    ],
}
COLOURS = {
    "scene_table": ((236, 226, 205), (176, 138, 98)),
    "scene_meadow": ((178, 214, 240), (120, 170, 88)),
}


def render(name: str, renders: dict[str, Path]) -> Image.Image:
    """One scene; the ground begins below the upper third."""
    above, below = COLOURS[name]
    pixels = np.empty((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[: SIZE[1] // 3], pixels[SIZE[1] // 3 :] = above, below
    image = Image.fromarray(pixels)
    for thing, x, y, side in SCENES[name]:
        cutout = Image.open(renders[thing]).convert("RGBA")
        scale = side / max(cutout.size)
        cutout = cutout.resize(
            (round(cutout.width * scale), round(cutout.height * scale)), Image.Resampling.LANCZOS
        )
        image.paste(cutout, (x - cutout.width // 2, y - cutout.height // 2), cutout)
    return image


def main() -> None:
    """Render the scenes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cutouts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    renders: dict[str, Path] = {}
    for line in (args.cutouts / "cutouts.jsonl").read_text("utf-8").splitlines():
        item = json.loads(line)
        if item["source"].startswith("emoji"):
            renders.setdefault(item["name"], args.cutouts / item["file"])
    for name in SCENES:
        render(name, renders).save(args.out / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
