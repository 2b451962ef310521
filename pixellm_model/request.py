"""Requests to a model. Does not import torch, so clients start quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class Picture(Protocol):
    """An image prepared by a model's `prepare`."""

    @property
    def original(self) -> tuple[int, int]:
        """Height and width of the photo in pixels."""
        ...

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        ...


@dataclass(frozen=True)
class Request:
    """A prompt about an image.

    Attributes:
        image: A PIL image in any mode, or one that the model prepared.
        prompt: What to segment.
        history: Earlier (prompt, answer) turns about the same image, oldest first.
    """

    image: Image.Image | Picture
    prompt: str
    history: Sequence[tuple[str, str]] = ()
