"""The interface that serving needs of a model; `pixellm_model.Segmenter` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixellm_model import Click, Picture, PromptError, Request
from worker.jobs.contract import Adjustment


class ModelTarget(Protocol):
    """One segmented target."""

    @property
    def phrase(self) -> str:
        """The words of the answer that name it."""

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(height, width) of the image."""

    @property
    def score(self) -> float:
        """Mean confidence inside the mask, 0..1."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels, end exclusive."""


class ModelAnswer(Protocol):
    """A model's answer to one prompt."""

    @property
    def answer(self) -> str:
        """The model's text, with `[1]`, `[2]` where it named target 1, 2."""

    @property
    def targets(self) -> Sequence[ModelTarget]:
        """The targets, in the order of the answer."""

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences for the annotator."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds per stage."""

    @property
    def unknown(self) -> Sequence[str]:
        """Names in the prompt that the model was never taught."""


class Model(Protocol):
    """A loaded model that answers prompts about images."""

    @property
    def version(self) -> str:
        """The name of the version."""

    @property
    def follows_up(self) -> bool:
        """Whether it was trained on turns that refer back ("only the left one")."""

    def segment_batch(self, requests: Sequence[Request]) -> Sequence[ModelAnswer | PromptError]:
        """Answer several prompts together.

        Args:
            requests: The prompts and their images.

        Returns:
            For each request, in order, the answer, or a PromptError with a sentence for the annotator when
            the model cannot take the prompt.
        """

    def refine(
        self,
        image: Picture,
        clicks: Sequence[Click],
        mask: npt.NDArray[np.bool_] | None = None,
        box: tuple[float, float, float, float] | None = None,
        adjust: Adjustment | None = None,
    ) -> ModelTarget:
        """Correct or begin the mask of one object.

        Args:
            image: The image, as `prepare` left it.
            clicks: The points, in pixels of the photo.
            mask: The current mask, (height, width); None to begin one.
            box: x0, y0, x1, y1 in pixels, end exclusive; the object lies within.
            adjust: In place of clicks and box: make `mask` tighter or looser along the image's edges, or grow
                it to the whole object.

        Returns:
            The object; every positive click lies in its mask and no negative one does.

        Raises:
            ClickError: The clicks, the box or the mask cannot be used; the message is a sentence.
        """

    def prepare(self, image: Image.Image) -> Picture:
        """Reduce an image (mode RGB) to what the model needs of it. Called from several threads."""

    def warm(self, image: Picture) -> None:
        """Compute and cache what depends on `image` alone, so that a prompt about it is answered sooner."""

    def with_adapter(self, folder: Path, name: str) -> Model:
        """Make a fine-tuned version that shares this model's weights.

        Args:
            folder: The adapter's files.
            name: The adapter's name; the version is `<this version>+<name>`.

        Returns:
            The fine-tuned version.

        Raises:
            CheckpointError: The adapter does not fit this model.
        """
