"""The recipe of a fine-tuning run: its hyperparameters, and the file that they are read from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pixellm_model.errors import DataError
from pixellm_model.learning.training import LossRecipe

# Values have to be finite, and at least this; 0 for fields that are not named.
LEAST = {
    "max_steps": -1,
    "batch_size": 1,
    "accumulation": 1,
    "lora_r": 1,
    "lora_alpha": 1,
    "max_targets": 1,
    "max_drawn": 1,
    "save_steps": 1,
}
ABOVE_ZERO = ("epochs", "lr")


@dataclass(frozen=True)
class FineTuneRecipe(LossRecipe):
    """How to train an adapter. A step takes a batch of images, each with several questions.

    Attributes:
        epochs: Passes over the samples.
        max_steps: Number of steps; if positive, in place of `epochs`.
        batch_size: Images per step and device.
        accumulation: Batches per optimizer step.
        lr: AdamW's peak learning rate; it falls linearly to 0.
        warmup_steps: Steps of linear warm-up.
        weight_decay: AdamW's.
        clip_norm: Limit of the gradient's norm.
        lora_r: Rank of the LoRA factors.
        lora_alpha: LoRA's scale times its rank.
        lora_dropout: Dropout before the LoRA factors, 0..1.
        max_targets: Targets per image and step; other questions are left to later epochs.
        gradient_checkpointing: Trade time for memory.
        bf16: Train in bfloat16 autocast; None for GPUs only.
        cache_bytes: Bound of the images' tower features in memory.
        save_steps: Steps between two checkpoints.
        seed: Of everything random.

    Raises:
        DataError: A value is out of range.
    """

    epochs: float = 10.0
    max_steps: int = -1
    batch_size: int = 2
    accumulation: int = 1
    lr: float = 3e-4
    warmup_steps: int = 20
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    max_targets: int = 12
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    cache_bytes: int = 2**30
    save_steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is None:
                continue
            least = LEAST.get(name, 0)
            if not math.isfinite(value) or value < least or (name in ABOVE_ZERO and value == 0):
                bound = "above 0" if name in ABOVE_ZERO else f"of at least {least}"
                raise DataError(f"The recipe's {name!r} is {value}; give a finite number {bound}.")
        if self.lora_dropout > 1:
            raise DataError(f"The recipe's 'lora_dropout' is {self.lora_dropout}; give a number from 0 to 1.")

    @classmethod
    def from_file(cls, path: Path) -> FineTuneRecipe:
        """Read a recipe from a JSON object with some of the fields.

        Raises:
            DataError: The file cannot be read, a field is unknown, or a value is out of range or not a number
                where the field takes one.
        """
        try:
            values = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"The recipe {path} cannot be read: {error}.") from None
        types = get_type_hints(cls)
        if not isinstance(values, dict):
            raise DataError(f"The recipe {path} is not a JSON object.")
        for name, value in values.items():
            if name not in types:
                raise DataError(f"The recipe {path} has {name!r}; use {', '.join(sorted(types))}.")
            if not _accepts(types[name], value):
                raise DataError(f"The recipe {path} gives {name!r} the value {value!r:.40}; give a number.")
        return cls(**values)


def _accepts(field_type: Any, value: object) -> bool:
    """Whether a value from JSON is a number, or a truth value or null where the field's type has it."""
    types = get_args(field_type) or (field_type,)
    if value is None or isinstance(value, bool):
        return type(value) in types
    return isinstance(value, int | float)
