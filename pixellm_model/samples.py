"""Annotated images: what the data readers and the scene renderer yield, for training and evaluation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PLACEHOLDER = "{seg}"  # stands for a target in the text of an answer

Mask = npt.NDArray[np.bool_]  # (H, W), H rows and W columns
Pixels = npt.NDArray[np.uint8]  # (H, W, 3) RGB


@dataclass(frozen=True)
class Question:
    """A question about an image with its answer.

    Attributes:
        text: What is asked.
        answer: The answer, with one PLACEHOLDER per target.
        masks: The targets' masks, each (H, W) bool, in the order of the answer.
        phrases: The words that name each target.
        history: Earlier (prompt, answer) turns about the same image, with targets as PLACEHOLDER or as
            displayed, `[1]`. They are context only: no loss is taken on them.

    Raises:
        ValueError: Answer, masks and phrases differ in number, or a mask is not two-dimensional bool.
    """

    text: str
    answer: str
    masks: tuple[Mask, ...]
    phrases: tuple[str, ...]
    history: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        placeholders = self.answer.count(PLACEHOLDER)
        if not placeholders == len(self.masks) == len(self.phrases):
            raise ValueError(
                f"The answer {self.answer!r} has {placeholders} {PLACEHOLDER} placeholders for "
                f"{len(self.masks)} masks and {len(self.phrases)} phrases; give as many of each."
            )
        for mask in self.masks:
            if mask.ndim != 2 or mask.dtype != np.bool_:
                raise ValueError(
                    f"A mask has shape {mask.shape} and type {mask.dtype}; give (height, width) of bool."
                )


@dataclass(frozen=True)
class Sample:
    """An image and questions about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        questions: The questions; their masks are (H, W).

    Raises:
        ValueError: The image is of another shape or type, or a mask of another size.
    """

    image: Pixels
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"The image has shape {self.image.shape} and type {self.image.dtype}; "
                "give (height, width, 3) of uint8."
            )
        height, width = self.image.shape[:2]
        for question in self.questions:
            for phrase, mask in zip(question.phrases, question.masks, strict=True):
                if mask.shape != (height, width):
                    raise ValueError(
                        f"The mask of {phrase!r} is {mask.shape[1]}x{mask.shape[0]} pixels, "
                        f"the image {width}x{height}; make them equal."
                    )
