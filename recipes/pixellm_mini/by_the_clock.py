"""Training of the whole model for a given time, on a schedule by the clock; resumable."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pixellm_model.learning.packing import PackedImage, pack
from pixellm_model.learning.training import LossRecipe, forward_losses
from pixellm_model.model import PixelLM
from pixellm_model.samples import Sample
from pixellm_model.tokenizer import PromptTokenizer

DECAY = 0.95  # of the running averages of the losses, per step


@dataclass(frozen=True)
class Recipe(LossRecipe):
    """How to train. Rates are AdamW's.

    Attributes:
        minutes: how long to train, by the clock.
        batch_size: images per step.
        lr: peak learning rate of what starts from random weights.
        lr_language: peak learning rate of the language model, which starts pretrained.
        warmup_steps: steps of linear warm-up.
        final_lr: learning rate at the end, as a share of the peak.
        weight_decay: AdamW's.
        clip_norm: limit of the gradient's norm.
        max_targets: targets per image and step.
        frozen: parameters whose names start with one of these are not trained.
        seed: of everything random.
        log_every: steps between two lines of the log.
        save_every: steps between two saved states.
    """

    dice_weight: float = 1.0
    align_weight: float = 1.0
    minutes: float = 60.0
    batch_size: int = 4
    lr: float = 6e-4
    lr_language: float = 2e-4
    warmup_steps: int = 40
    final_lr: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    max_targets: int = 6
    frozen: tuple[str, ...] = ("model.vision_tower.",)
    seed: int = 0
    log_every: int = 20
    save_every: int = 100


def train(
    model: PixelLM,
    tokenizer: PromptTokenizer,
    samples: Iterable[Sample | PackedImage],
    recipe: Recipe,
    out: Path,
) -> Iterator[dict[str, float]]:
    """Train for `recipe.minutes`. The schedule follows the clock, so a slow machine ends on a low rate too.

    Args:
        model: trained in place; in evaluation mode and frozen when the time is up.
        tokenizer: its tokenizer.
        samples: an endless stream.
        recipe: how to train.
        out: folder of `training.pt`, the newest state; training resumes from it if it exists.

    Yields:
        The step, the minutes spent and the losses' running averages, every `log_every` steps.

    Raises:
        FloatingPointError: a loss is not finite. The state saved before stays intact.
    """
    torch.manual_seed(recipe.seed)
    run = _Run(model, tokenizer, recipe, out / "training.pt")
    run.resume()
    batch: list[PackedImage] = []
    for sample in samples:
        batch.append(
            pack(sample, model, tokenizer, recipe.max_targets) if isinstance(sample, Sample) else sample
        )
        if len(batch) < recipe.batch_size:
            continue
        progress = run.progress()
        run.step(batch, progress)
        batch = []
        done = progress >= 1
        if run.steps % recipe.log_every == 0 or done:
            yield {"step": run.steps, "minutes": run.seconds() / 60, **run.averages}
        if run.steps % recipe.save_every == 0 or done:
            run.save()
        if done:
            break
    model.eval().requires_grad_(False)


class _Run:
    """Model, optimizer and clock of one training run."""

    def __init__(self, model: PixelLM, tokenizer: PromptTokenizer, recipe: Recipe, state_file: Path):
        self._model, self._tokenizer, self._recipe, self._file = model, tokenizer, recipe, state_file
        model.train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(recipe.frozen))
        # LLaMA's own children of `model` start pretrained, every other part from scratch.
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        language = [p for n, p in trained if _is_language(n)]
        fresh = [p for n, p in trained if not _is_language(n)]
        self._parameters = fresh + language
        self._optimizer = torch.optim.AdamW(
            [{"params": fresh, "peak": recipe.lr}, {"params": language, "peak": recipe.lr_language}],
            lr=recipe.lr,
            betas=(0.9, 0.95),
            weight_decay=recipe.weight_decay,
        )
        self.steps = 0
        self.averages: dict[str, float] = {}
        self._began = time.monotonic()

    def resume(self) -> None:
        """Continue from the saved state if there is one."""
        if self._file.exists():
            state = torch.load(self._file, map_location="cpu", weights_only=True)
            self._model.load_state_dict(state["model"], strict=False)
            self._optimizer.load_state_dict(state["optimizer"])
            self.steps = state["step"]
            self._began = time.monotonic() - state["spent"]

    def seconds(self) -> float:
        """Seconds trained, those before an interruption included."""
        return time.monotonic() - self._began

    def progress(self) -> float:
        """Share of the time that is used up; above 1 when it is over."""
        return self.seconds() / (60 * self._recipe.minutes)

    def step(self, batch: list[PackedImage], progress: float) -> None:
        """Take one optimizer step at the learning rate of `progress`."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(progress, self.steps, self._recipe)
        with torch.autocast(self._model.device.type, torch.bfloat16):
            losses = forward_losses(self._model, self._tokenizer, batch, self._recipe)
        if not torch.isfinite(losses.total):
            raise FloatingPointError(
                f"The loss at step {self.steps} is not finite; the state saved before is intact."
            )
        self._optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm)
        self._optimizer.step()
        self.steps += 1
        for key, value in losses.parts.items():
            self.averages[key] = DECAY * self.averages.get(key, value) + (1 - DECAY) * value

    def save(self) -> None:
        """Write a temporary file and rename it, so that a kill leaves the previous state intact."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary_path = self._file.with_suffix(".partial")
        state = {"model": learned_weights(self._model), "optimizer": self._optimizer.state_dict()}
        torch.save({**state, "step": self.steps, "spent": self.seconds()}, temporary_path)
        temporary_path.replace(self._file)


def schedule(progress: float, step: int, recipe: Recipe) -> float:
    """Factor on the peak rate: linear warm-up by steps, then cosine to `final_lr` by `progress` (0..1)."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, progress)))
    return float(warmup * (recipe.final_lr + (1 - recipe.final_lr) * cosine))


def learned_weights(model: PixelLM) -> dict[str, torch.Tensor]:
    """All weights but the towers', which are never trained."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("model.vision_tower.")}


def _is_language(name: str) -> bool:
    return name.startswith(("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head."))
