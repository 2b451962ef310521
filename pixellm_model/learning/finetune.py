"""Fine-tune an adapter on samples, with transformers' Trainer: resumable, on one device or several.

    accelerate launch -m pixellm_model train --data FOLDER --out DIR   # as many GPUs as there are

The frozen tower sees each image once; what it made of it is kept in memory, within a bound, for all epochs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from pixellm_model import adapter, checkpoint
from pixellm_model.errors import DataError
from pixellm_model.learning.packing import PackedImage, pack_questions
from pixellm_model.learning.training import LossRecipe, forward_losses
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage
from pixellm_model.samples import Question, Sample
from pixellm_model.tokenizer import PromptTokenizer


class Samples(Protocol):
    """What is trained on; `data.SampleSet` is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class FineTuneRecipe(LossRecipe):
    """How an adapter is trained; recorded beside it. A batch is of images, each with several questions."""

    epochs: float = 10.0
    max_steps: int = -1  # if positive, instead of epochs
    batch_size: int = 2
    accumulation: int = 1
    lr: float = 3e-4
    warmup_steps: int = 20
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    max_targets: int = 12  # an image and step; further questions wait for the next epoch
    gradient_checkpointing: bool = False
    bf16: bool | None = None  # None: on GPUs
    cache_bytes: int = 2**30  # of images' tower features
    save_steps: int = 50
    seed: int = 0

    @classmethod
    def from_file(cls, path: Path) -> FineTuneRecipe:
        """Read a JSON object of some of the fields. Raises DataError naming what is not one."""
        try:
            values = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"The recipe {path} cannot be read: {error}.") from None
        known = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(values, dict):
            raise DataError(f"The recipe {path} is not a JSON object.")
        for name, value in values.items():
            if name not in known:
                raise DataError(f"The recipe {path} has {name!r}; use {', '.join(sorted(known))}.")
            if isinstance(value, str | list | dict):
                raise DataError(f"The recipe {path} gives {name!r} the value {value!r:.40}; give a number.")
        return cls(**values)


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `seconds_left` is None before the first step."""

    step: int
    steps: int
    loss: float | None
    seconds_left: float | None


class PackedSamples(Dataset[PackedImage]):
    """Samples ready for the model. What the frozen tower sees is kept, in half precision, up to a bound.

    An image with more targets than a step takes asks another part of its questions each time it is seen. A
    question that the model's length does not hold is left out and named in `left_out`.
    """

    def __init__(self, samples: Samples, model: PixelLM, tokenizer: PromptTokenizer, recipe: FineTuneRecipe):
        self._samples, self._model, self._tokenizer = samples, model, tokenizer
        self._recipe = recipe
        self._features: dict[int, torch.Tensor] = {}
        self._room = recipe.cache_bytes
        self.left_out: list[str] = []

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> PackedImage:
        sample = self._samples[index]
        packed = pack_questions(
            sample.image,
            self._chosen(index, sample.questions),
            self._model.config,
            self._tokenizer,
            self._recipe.photo_size,
        )
        kept = self._features.get(index)
        if kept is None and isinstance(packed.image, ProcessedImage):
            with torch.no_grad():
                kept = torch.stack(self._model.tower_features([packed.image]), dim=1)[0].half()
            if kept.nbytes <= self._room:
                self._features[index] = kept
                self._room -= kept.nbytes
        assert kept is not None
        packed.image = kept
        return packed

    def _chosen(self, index: int, questions: Sequence[Question]) -> list[Question]:
        chosen: list[Question] = []
        targets = 0
        for number in torch.randperm(len(questions)).tolist():
            question = questions[number]
            if chosen and targets + len(question.masks) > self._recipe.max_targets:
                continue
            if not self._fits(question):
                reason = f"sample {index}: {question.text[:80]!r} and its answer are too long for the model"
                if reason not in self.left_out:
                    self.left_out.append(reason)
                continue
            chosen.append(question)
            targets += len(question.masks)
        if not chosen:
            raise DataError(f"Nothing of sample {index} fits into the model's length; shorten its answers.")
        return chosen

    def _fits(self, question: Question) -> bool:
        block = len(self._tokenizer.codebook.ids)
        said = [question.text, question.answer, *(text for turn in question.history for text in turn)]
        length = sum(len(self._tokenizer.encode(self._tokenizer.clean(text))) for text in said)
        marks = sum(text.count("{seg}") + text.count("[") for text in said)
        room = self._model.config.llama.max_position_embeddings - self._model.config.image_tokens - 64
        return length + block * marks <= room


class _Learner(nn.Module):
    """The model as Trainer wants it: a batch in, a loss out."""

    def __init__(self, model: PixelLM, tokenizer: PromptTokenizer, recipe: FineTuneRecipe):
        super().__init__()
        self.model, self._tokenizer, self._recipe = model, tokenizer, recipe
        self.parts: dict[str, float] = {}

    def forward(self, batch: list[PackedImage]) -> dict[str, torch.Tensor]:
        losses = forward_losses(self.model, self._tokenizer, batch, self._recipe)
        if not torch.isfinite(losses.total):
            raise FloatingPointError(
                "The loss is not finite; lower the learning rate (lr). What was saved before is whole."
            )
        self.parts = losses.parts
        return {"loss": losses.total}


class _AdapterTrainer(Trainer):
    """Saves and restores the adapter's tensors only, not the base's."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        learner = self.accelerator.unwrap_model(self.model)
        tensors = {name: p.detach().cpu() for name, p in adapter.trained(learner.model).items()}
        torch.save(tensors, folder / "adapter.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        learner = self.accelerator.unwrap_model(self.model)
        tensors = torch.load(Path(resume_from_checkpoint) / "adapter.pt", weights_only=True)
        for name, parameter in adapter.trained(learner.model).items():
            parameter.data.copy_(tensors[name])


class _Watch(TrainerCallback):
    """Between steps: lets others at the device, tells where the run stands, keeps the log."""

    def __init__(
        self,
        out: Path,
        learner: _Learner,
        progress: Callable[[Progress], None] | None,
        pause: Callable[[], None],
    ):
        self._log, self._learner, self._progress, self._pause = out / "log.jsonl", learner, progress, pause
        self._began: float | None = None
        self._first = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._pause()
        if self._began is None:
            self._began, self._first = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        assert self._began is not None
        each = (time.monotonic() - self._began) / (state.global_step - self._first)
        loss = sum(self._learner.parts.values()) if self._learner.parts else None
        line = {"step": state.global_step, "seconds": round(each, 3), **self._learner.parts}
        with self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._progress:
            left = each * (state.max_steps - state.global_step)
            self._progress(Progress(state.global_step, state.max_steps, loss, left))


def steps_of(recipe: FineTuneRecipe, samples: int) -> int:
    """Optimizer steps of a run on one device."""
    if recipe.max_steps > 0:
        return recipe.max_steps
    return math.ceil(recipe.epochs * math.ceil(samples / recipe.batch_size / recipe.accumulation))


def needs(model: PixelLM, recipe: FineTuneRecipe, samples: int) -> str:
    """What a run will take, in words: steps and memory besides activations."""
    learned = sum(p.numel() for p in adapter.trained(model).values())
    weights = sum(p.nbytes for p in model.parameters())
    config = model.config
    features = samples * 2 * config.grid**2 * config.feature_width * 2
    mib = (weights + 16 * learned + min(features, recipe.cache_bytes)) / 2**20
    return (
        f"{samples} images, {steps_of(recipe, samples)} steps of {recipe.batch_size * recipe.accumulation}; "
        f"{learned / 1e6:.1f} M weights learn; at least {mib:.0f} MiB of memory, and activations"
    )


def fine_tune(
    base: str | Path | None,
    samples: Samples,
    recipe: FineTuneRecipe,
    out: Path,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    pause: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> Path:
    """Train an adapter of the checkpoint folder `base` (None: the mini); returns its folder, `out`/adapter.

    Run again with the same `out` it goes on where it was stopped. `pause` is called before each step and may
    wait, `progress` after it. `out` also gets `recipe.json` and `log.jsonl`. Raises DataError for an empty
    data set or a sample that cannot be read, FloatingPointError when the loss is not finite; what was saved
    before stays whole.
    """
    if not len(samples):
        raise DataError("There is nothing to train on; give at least one sample.")
    from pixellm_model.engine.segmenter import MINI

    folder = Path(base) if base is not None else MINI
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    on_gpu = device.startswith("cuda")
    loaded, tokenizer = checkpoint.load(folder, None, device, torch.bfloat16 if on_gpu else torch.float32)
    config = adapter.AdapterConfig(
        checkpoint.fingerprint(folder),
        tokenizer.codebook.ids,
        recipe.lora_r,
        recipe.lora_alpha,
        recipe.lora_dropout,
    )
    model = adapter.attach(loaded, config)
    if recipe.gradient_checkpointing:
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    if not quiet:
        print(needs(model, recipe, len(samples)), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    learner = _Learner(model, tokenizer, recipe)
    packed = PackedSamples(samples, loaded, tokenizer, recipe)
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.lr,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=recipe.clip_norm,
        lr_scheduler_type="linear",
        bf16=on_gpu if recipe.bf16 is None else recipe.bf16,
        use_cpu=not on_gpu,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=quiet,
        seed=recipe.seed,
    )
    trainer = _AdapterTrainer(
        model=learner,
        args=arguments,
        train_dataset=packed,
        data_collator=lambda images: {"batch": images},
        callbacks=[_Watch(out, learner, progress, pause)],
    )
    trainer.train(resume_from_checkpoint=_last_checkpoint(out / "checkpoints"))
    if trainer.is_world_process_zero():
        adapter.save(model, config, out / "adapter")
    if packed.left_out and not quiet:
        print(f"{len(packed.left_out)} questions were left out, the first: {packed.left_out[0]}")
    return out / "adapter"


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written whole: Trainer writes its state last."""
    if not folder.is_dir():
        return None
    last = get_last_checkpoint(str(folder))
    while last is not None and not (Path(last) / "trainer_state.json").is_file():
        Path(last).rename(Path(last).with_name(f"broken-{Path(last).name}"))
        last = get_last_checkpoint(str(folder))
    return last
