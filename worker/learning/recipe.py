"""What a retraining learns from and how: corrections mixed with replayed samples, and its recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixellm_model.learning.recipe import FineTuneRecipe
    from pixellm_model.samples import Sample

# The recipe of a retraining. A project has tens to thousands of corrections, so batches and checkpoints are
# small, and the learning rate is a little higher than FineTuneRecipe's for data sets.
EPOCHS = 10
LEARNING_RATE = 4e-4
BATCH_SIZE = 4
WARMUP_STEPS = 5
MAX_TARGETS_PER_IMAGE = 6
CHECKPOINT_EVERY_STEPS = 20
# The number of steps is the cost of a run: fifty corrections take minutes on two CPU cores, ten thousand must
# not take days.
MIN_STEPS, MAX_STEPS = 60, 2000


class ReplayMix:
    """Corrections, each followed by a replayed sample, so that the model does not forget the rest.

    Trained on corrections alone, pixellm-mini lost half of its gIoU on other scenes.
    """

    def __init__(self, corrections: Sequence[Sample], replay: Sequence[Sample]) -> None:
        """Mix two sets of samples.

        Args:
            corrections: The samples to learn; each appears once.
            replay: The samples to replay, from the first again when there are fewer than corrections.
        """
        self._corrections, self._replay = corrections, replay

    def __len__(self) -> int:
        return 2 * len(self._corrections)

    def __getitem__(self, index: int) -> Sample:
        number, is_replay = divmod(index, 2)
        return self._replay[number % len(self._replay)] if is_replay else self._corrections[number]


def hash_of_files(path: Path) -> str:
    """Return a hash that tells one data set from another.

    Args:
        path: A file or a folder. Of images, which may be many, only names and sizes count.
    """
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.relative_to(path)}:{file.stat().st_size}\n".encode())
            if file.suffix == ".json":
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def recipe_for(num_images: int, path: Path | None) -> FineTuneRecipe:
    """Choose the recipe of a retraining.

    Args:
        num_images: How many images are trained on.
        path: A JSON file with fields of `FineTuneRecipe` to use instead; None: the defaults for that many
            images.

    Returns:
        The recipe.

    Raises:
        DataError: The file is not a recipe.
    """
    from pixellm_model.learning.finetune import steps_of
    from pixellm_model.learning.recipe import FineTuneRecipe

    if path is not None:
        return FineTuneRecipe.from_file(path)
    recipe = FineTuneRecipe(
        epochs=EPOCHS,
        lr=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        warmup_steps=WARMUP_STEPS,
        max_targets=MAX_TARGETS_PER_IMAGE,
        save_steps=CHECKPOINT_EVERY_STEPS,
    )
    return replace(recipe, max_steps=min(max(steps_of(recipe, num_images), MIN_STEPS), MAX_STEPS))
