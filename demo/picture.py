"""The picture on the README's first screen: prompts on sample images, answered by the shipped model.

    python -m demo.picture

It writes docs/images/prompts.jpg.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from demo.environment import ROOT
from demo.samples import FOLDER
from pixellm_model import Segmenter
from pixellm_model.measuring.overlay import draw_overlay

PROMPTS = (
    ("scene_table.jpg", "the cup and the book"),
    ("scene_meadow.jpg", "the tree and the car"),
    ("cat.jpg", "the cat"),
)
PICTURE = ROOT / "docs" / "images" / "prompts.jpg"
PANEL_HEIGHT, LINE_HEIGHT, GAP = 300, 36, 12
FONT_SIZE = 18
JPEG_QUALITY = 85
PROMPT_COLOUR, ANSWER_COLOUR = (20, 60, 160), (20, 20, 20)


def panel(segmenter: Segmenter, image: Path, prompt: str) -> Image.Image:
    """Draw one prompt, the image with its masks, and the model's answer, from top to bottom."""
    photo = Image.open(image).convert("RGB")
    result = segmenter.segment(photo, prompt)
    overlay = draw_overlay(photo, result.targets)
    width = round(overlay.width * PANEL_HEIGHT / overlay.height)
    canvas = Image.new("RGB", (width, PANEL_HEIGHT + 2 * LINE_HEIGHT), "white")
    canvas.paste(overlay.resize((width, PANEL_HEIGHT), Image.Resampling.LANCZOS), (0, LINE_HEIGHT))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=FONT_SIZE)
    pen.text((4, LINE_HEIGHT / 2), f"> {prompt}", PROMPT_COLOUR, font, anchor="lm")
    pen.text((4, canvas.height - LINE_HEIGHT / 2), result.answer, ANSWER_COLOUR, font, anchor="lm")
    return canvas


def picture() -> Image.Image:
    """Draw the panels of all PROMPTS side by side."""
    segmenter = Segmenter.from_pretrained()
    panels = [panel(segmenter, FOLDER / name, prompt) for name, prompt in PROMPTS]
    width = sum(image.width for image in panels) + GAP * (len(panels) - 1)
    canvas = Image.new("RGB", (width, panels[0].height), "white")
    left = 0
    for image in panels:
        canvas.paste(image, (left, 0))
        left += image.width + GAP
    return canvas


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    picture().save(PICTURE, quality=JPEG_QUALITY, optimize=True)
    print(PICTURE)
