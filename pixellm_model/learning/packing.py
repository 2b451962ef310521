"""From samples to what the model trains on: ids that share an image's prefix, and masks.

A sample's sequence is `[system + image] [question 1 + answer 1] [question 2 + answer 2] ...`. An
attention mask keeps the questions from seeing each other and positions restart after the prefix, so the
result equals separate sequences while the image is paid for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pixellm_model.config import PixelLMConfig
from pixellm_model.engine.generate import split_prompt
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage, process_image
from pixellm_model.prompt import build_prompt, training_text
from pixellm_model.samples import Question, Sample
from pixellm_model.tokenizer import PromptTokenizer


@dataclass
class PackedImage:
    """One sample, ready for the model. `prefix` holds IMAGE_ID; the questions and answers branch off it.

    `image` may also be what the frozen tower made of it, (2, g*g, C), computed once and kept. The answers of
    the last `supposed` branches are wrong: they name what is not there. Their tokens are not learned, but
    that nothing is to be drawn for them is. `photo_masks` are the masks at the photo's own size, (N, H, W)
    bool, when the losses are to be taken there.
    """

    image: ProcessedImage | torch.Tensor
    resized: tuple[int, int]
    prefix: list[int]
    branches: list[tuple[list[int], int]]  # ids of question and answer, where the answer starts
    masks: torch.Tensor  # (N, 4g, 4g) float in 0..1, the pixel decoder's own resolution
    supposed: int = 0
    photo_masks: torch.Tensor | None = None


def pack(
    sample: Sample, model: PixelLM, tokenizer: PromptTokenizer, max_targets: int, photo_masks: bool = False
) -> PackedImage:
    """Tokenise a sample; questions beyond `max_targets` targets are left out, never cut."""
    asked: list[Question] = []
    targets = 0
    for question in sample.questions:
        if targets + len(question.masks) > max_targets and asked:
            continue
        asked.append(question)
        targets += len(question.masks)
    return pack_questions(sample.image, asked, model.config, tokenizer, photo_masks)


def pack_questions(
    photo: np.ndarray,
    questions: Sequence[Question],
    config: PixelLMConfig,
    tokenizer: PromptTokenizer,
    photo_masks: bool = False,
) -> PackedImage:
    """All of these questions about a photo, (H, W, 3) uint8."""
    image = process_image(Image.fromarray(photo), config.image_size)
    side = 4 * config.grid
    truths = [mask for question in questions for mask in question.masks]
    prefix, branches = branch_off(
        [(question.text, question.answer) for question in questions],
        config,
        tokenizer,
        [question.history for question in questions],
    )
    small = [shrink_mask(mask, image.resized, config.image_size, side) for mask in truths]
    masks = torch.stack(small) if small else torch.zeros(0, side, side)
    full = torch.from_numpy(np.stack(truths)) if truths and photo_masks else None
    return PackedImage(image, image.resized, prefix, branches, masks, photo_masks=full)


def branch_off(
    texts: list[tuple[str, str]],
    config: PixelLMConfig,
    tokenizer: PromptTokenizer,
    histories: Sequence[Sequence[tuple[str, str]]] = (),
) -> tuple[list[int], list[tuple[list[int], int]]]:
    """Questions with answers -> their shared prefix, and what of each branches off and its answer's start.

    `histories` are the turns before each question, if there are any.
    """
    prefix: list[int] = []
    branches: list[tuple[list[int], int]] = []
    for (question, answer), history in zip(texts, histories or [()] * len(texts), strict=True):
        prompt = build_prompt(config, tokenizer, question, history)
        prefix, asked = split_prompt(tokenizer.encode(prompt))
        _, whole = split_prompt(tokenizer.encode(prompt + training_text(tokenizer, answer)))
        branches.append(([*whole, tokenizer.eos_id], len(asked)))
    return prefix, branches


def shrink_mask(mask: np.ndarray, resized: tuple[int, int], image_size: int, side: int) -> torch.Tensor:
    """An (H, W) mask in the padded square, averaged down to (side, side)."""
    h, w = resized
    scaled = F.interpolate(
        torch.from_numpy(mask)[None, None].float(), (h, w), mode="bilinear", antialias=True
    )
    square = F.pad(scaled, (0, image_size - w, 0, image_size - h))
    return F.interpolate(square, (side, side), mode="area")[0, 0]


def decoder_cells(resized: tuple[int, int], config: PixelLMConfig) -> torch.Tensor:
    """(4g, 4g) bool: decoder cells whose top left pixel lies inside the image, not in the padding."""
    side = 4 * config.grid
    starts = torch.arange(side) * config.image_size / side
    return (starts[:, None] < resized[0]) & (starts[None, :] < resized[1])
