"""What every data reader and the scene renderer yield: an image with questions, answers and masks."""

from dataclasses import dataclass

import numpy as np

PLACEHOLDER = "{seg}"


@dataclass(frozen=True)
class Question:
    """A question about an image with its answer.

    `answer` holds one `{seg}` per target, in the order of `masks` (each (H, W) bool) and `phrases` (the
    words that name each target). `history` holds earlier (prompt, answer) turns about the same image, their
    targets as `{seg}` or as displayed, `[1]`; they are read, not learned. Raises ValueError when answer,
    masks and phrases differ in number or the masks in shape.
    """

    text: str
    answer: str
    masks: tuple[np.ndarray, ...]
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
    """An image, (H, W, 3) uint8, and its questions. Raises ValueError when a mask has another size."""

    image: np.ndarray
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
