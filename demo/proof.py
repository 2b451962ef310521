"""Sends one prompt through Label Studio's own API and draws the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from backend.label_studio.brush_rle import decode
from demo.label_studio import LabelStudio

PROMPT_CONTROL, ANSWER_CONTROL, IMAGE_CONTROL = "prompt", "answer", "image"


@dataclass(frozen=True)
class Proof:
    """The model's sentence and the regions it proposed, as Label Studio delivered them."""

    answer: str
    regions: tuple[dict[str, Any], ...]


def ask(label_studio: LabelStudio, backend: int, task: int, prompt: str) -> Proof:
    """Enter a prompt as the editor does.

    Args:
        label_studio: The server.
        backend: Its number of the backend.
        task: The task's number.
        prompt: The prompt.

    Returns:
        The model's answer.

    Raises:
        DemoError: Label Studio reports that the backend failed.
    """
    typed = {
        "id": "demo-prompt",
        "from_name": PROMPT_CONTROL,
        "to_name": IMAGE_CONTROL,
        "type": "textarea",
        "value": {"text": [prompt]},
    }
    results = label_studio.ask(backend, task, [typed])
    answers = [result["value"]["text"] for result in results if result["from_name"] == ANSWER_CONTROL]
    return Proof(
        answer=" ".join(line for lines in answers for line in lines),
        regions=tuple(result for result in results if result["type"] == "brushlabels"),
    )


def draw(proof: Proof, image: Path, path: Path) -> None:
    """Save `image` with the masks, phrases, scores and the answer to `path`."""
    from pixellm_model import Target
    from pixellm_model.measuring.overlay import draw_overlay

    targets = []
    for region in proof.regions:
        mask = decode(region["value"]["rle"], region["original_height"], region["original_width"])
        targets.append(Target(phrase(region), mask, region["score"], (0, 0, 0, 0)))
    draw_overlay(Image.open(image), targets, proof.answer).save(path)


def phrase(region: dict[str, Any]) -> str:
    """The words of the answer that named the region."""
    return " ".join(region["meta"]["text"])
