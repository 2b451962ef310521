"""What a model is asked, without torch: whoever asks need not wait for its import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Request:
    """A prompt about an image; `history` holds earlier (prompt, answer) turns about it."""

    image: Image.Image
    prompt: str
    history: Sequence[tuple[str, str]] = ()
