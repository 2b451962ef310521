"""Scenes unlike those the mini was trained on, with exact masks: signs and other shapes on a noisy ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (320, 240)
GROUNDS = ((70, 110, 80), (120, 130, 150), (150, 140, 110), (90, 80, 100))


@dataclass(frozen=True)
class Scene:
    """A picture file and the mask (H, W) bool of the one sign on it."""

    file: Path
    sign: np.ndarray


def draw(folder: Path, count: int, seed: int = 0) -> list[Scene]:
    return [_scene(folder / f"sign_{seed}_{number:03}.png", seed, number) for number in range(count)]


def _scene(file: Path, seed: int, number: int) -> Scene:
    rng = np.random.default_rng([seed, number])
    width, height = SIZE
    ground = np.array(GROUNDS[number % len(GROUNDS)]) + rng.normal(0, 14, (height, width, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(3):  # what is no sign: grey-blue boxes
        x, y = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
        side = int(rng.integers(20, 60))
        shade = int(rng.integers(60, 160))
        draw.rectangle((x, y, x + side, y + side // 2), fill=(shade, shade, min(255, shade + 60)))
    radius = int(rng.integers(28, 52))
    x = int(rng.integers(radius, width - radius))
    y = int(rng.integers(radius, height - radius))
    draw.regular_polygon((x, y, radius), 8, rotation=22, fill=(200, 30, 35), outline=(240, 240, 240), width=4)
    mask = Image.new("1", SIZE)
    ImageDraw.Draw(mask).regular_polygon((x, y, radius), 8, rotation=22, fill=1)
    image.filter(ImageFilter.GaussianBlur(0.6)).save(file)
    return Scene(file, np.array(mask))
