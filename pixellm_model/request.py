"""What a model is asked, without torch: whoever asks need not wait for its import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class Picture(Protocol):
    """An image as a model's `prepare` leaves it: all the model needs, in `nbytes` of memory. `original` is
    the photo's height and width in pixels."""

    @property
    def original(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Request:
    """A prompt about an image, prepared by the model or not; `history` holds earlier (prompt, answer) turns
    about it."""

    image: Image.Image | Picture
    prompt: str
    history: Sequence[tuple[str, str]] = ()
