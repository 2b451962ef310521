"""Packs a sample for training: all its questions in one sequence after a shared image prefix, and its masks.

The sequence is `[system + image] [question 1 + answer 1] [question 2 + answer 2] ...`. An attention mask
keeps the questions from attending to each other, and positions restart after the prefix. The result equals
separate sequences, while the image is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from pixellm_model.samples import Mask, Pixels, Question, Sample
from pixellm_model.tokenizer import PromptTokenizer


@dataclass
class PackedImage:
    """One sample, ready for the model.

    Attributes:
        image: The image, or the frozen tower's features of it, computed earlier: (2, g*g, C), or one tensor
            for each of `PixelLM.tower_features`.
        resized: Height and width in pixels of the image in the padded square.
        prefix: Token ids up to the image's end; IMAGE_ID stands for the image.
        branches: Per question, the ids of question and answer, and the index at which the answer starts.
        masks: (N, 4g, 4g) float in 0..1, the targets' masks at the pixel decoder's resolution.
        num_negatives: How many of the last branches are negatives: their answers name absent things. No token
            loss is taken on them, but the mask losses are, with empty masks.
        photo_masks: (N, H, W) bool, the masks at the photo's size, for losses at that size.
    """

    image: ProcessedImage | torch.Tensor | tuple[torch.Tensor, ...]
    resized: tuple[int, int]
    prefix: list[int]
    branches: list[tuple[list[int], int]]
    masks: torch.Tensor
    num_negatives: int = 0
    photo_masks: torch.Tensor | None = None


def pack(
    sample: Sample, model: PixelLM, tokenizer: PromptTokenizer, max_targets: int, photo_masks: bool = False
) -> PackedImage:
    """Pack the first questions of a sample that have at most `max_targets` targets together.

    A question that would exceed the limit is left out; it is never cut.

    Args:
        sample: The sample.
        model: The model; only its configuration is used.
        tokenizer: Its tokenizer.
        max_targets: The most targets of all packed questions together.
        photo_masks: Whether to keep the masks at the photo's size too.

    Returns:
        The packed sample.
    """
    questions = choose_questions(sample.questions, max_targets)
    return pack_questions(sample.image, questions, model.config, tokenizer, photo_masks)


def choose_questions(
    questions: Iterable[Question], max_targets: int, fits: Callable[[Question], bool] = lambda _: True
) -> list[Question]:
    """The questions, in order, that together have at most `max_targets` targets and that `fits` accepts.

    The first accepted one is taken whatever its number of targets.
    """
    chosen: list[Question] = []
    num_targets = 0
    for question in questions:
        if chosen and num_targets + len(question.masks) > max_targets:
            continue
        if fits(question):
            chosen.append(question)
            num_targets += len(question.masks)
    return chosen


def pack_questions(
    photo: Pixels,
    questions: Sequence[Question],
    config: PixelLMConfig,
    tokenizer: PromptTokenizer,
    photo_masks: bool = False,
) -> PackedImage:
    """Pack questions about one photo.

    Args:
        photo: (H, W, 3) uint8 RGB.
        questions: All of them are packed; their masks are (H, W).
        config: The model's configuration.
        tokenizer: Its tokenizer.
        photo_masks: Keep the masks at the photo's size too.

    Returns:
        The packed image, with pixels.
    """
    image = process_image(Image.fromarray(photo), config.image_size)
    side = 4 * config.grid
    masks = [mask for question in questions for mask in question.masks]
    prefix, branches = branch_off(
        [(question.text, question.answer) for question in questions],
        config,
        tokenizer,
        [question.history for question in questions],
    )
    shrunk = [shrink_mask(mask, image.resized, config.image_size, side) for mask in masks]
    decoder_masks = torch.stack(shrunk) if shrunk else torch.zeros(0, side, side)
    full_size = torch.from_numpy(np.stack(masks)) if masks and photo_masks else None
    return PackedImage(image, image.resized, prefix, branches, decoder_masks, photo_masks=full_size)


def branch_off(
    texts: list[tuple[str, str]],
    config: PixelLMConfig,
    tokenizer: PromptTokenizer,
    histories: Sequence[Sequence[tuple[str, str]]] = (),
) -> tuple[list[int], list[tuple[list[int], int]]]:
    """Tokenise questions with their answers.

    Args:
        texts: (question, answer) pairs about one image.
        config: The model's configuration.
        tokenizer: Its tokenizer.
        histories: The earlier turns of each question; empty if none has any.

    Returns:
        The ids of the prefix they share, and per question the ids after it with the index at which the answer
        starts.
    """
    prefix: list[int] = []
    branches: list[tuple[list[int], int]] = []
    for (question, answer), history in zip(texts, histories or [()] * len(texts), strict=True):
        prompt = build_prompt(config, tokenizer, question, history)
        prefix, question_ids = split_prompt(tokenizer.encode(prompt))
        _, branch = split_prompt(tokenizer.encode(prompt + training_text(tokenizer, answer)))
        branches.append(([*branch, tokenizer.eos_id], len(question_ids)))
    return prefix, branches


def shrink_mask(mask: Mask, resized: tuple[int, int], image_size: int, side: int) -> torch.Tensor:
    """Place a mask in the padded square and average it down.

    Args:
        mask: (H, W) at the photo's size.
        resized: Height and width in pixels of the image in the square.
        image_size: Side of the square in pixels.
        side: Side of the result.

    Returns:
        (side, side) float in 0..1.
    """
    h, w = resized
    scaled = F.interpolate(
        torch.from_numpy(mask)[None, None].float(), (h, w), mode="bilinear", antialias=True
    )
    square = F.pad(scaled, (0, image_size - w, 0, image_size - h))
    return F.interpolate(square, (side, side), mode="area")[0, 0]


def decoder_cells(resized: tuple[int, int], config: PixelLMConfig) -> torch.Tensor:
    """(4g, 4g) bool: the decoder cells whose top left pixel lies inside the image, not in the padding."""
    side = 4 * config.grid
    starts = torch.arange(side) * config.image_size / side
    return (starts[:, None] < resized[0]) & (starts[None, :] < resized[1])
