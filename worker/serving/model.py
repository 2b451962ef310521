"""All that serving knows of a model: `prepare`, `segment_batch`, `warm`, `with_adapter`, `version`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from pixellm_model import Picture, PromptError, Request


class Target(Protocol):
    """One target; `mask` is a bool array (height, width), `box` is x0, y0, x1, y1 in pixels."""

    @property
    def phrase(self) -> str: ...
    @property
    def mask(self) -> np.ndarray: ...
    @property
    def score(self) -> float: ...
    @property
    def box(self) -> tuple[int, int, int, int]: ...


class Segmentation(Protocol):
    @property
    def answer(self) -> str: ...
    @property
    def targets(self) -> Sequence[Target]: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def timings(self) -> Mapping[str, float]: ...


class Model(Protocol):
    """All the worker knows of a model; `pixellm_model.Segmenter` is one."""

    @property
    def version(self) -> str: ...
    def segment_batch(self, requests: Sequence[Request]) -> Sequence[Segmentation | PromptError]:
        """An answer to each question, in order. A prompt that it cannot take gets a PromptError, in a
        sentence for the annotator, and the others their answers."""

    def prepare(self, image: Image.Image) -> Picture:
        """What it needs of an image, in little memory. Called from several threads."""

    def warm(self, image: Picture) -> None:
        """Computes and keeps what depends on `image` alone, so that a prompt about it is answered sooner."""

    def with_adapter(self, folder: Path, name: str) -> Model:
        """This model with a fine-tuned adapter, as version `<this>+<name>`. Raises CheckpointError."""
