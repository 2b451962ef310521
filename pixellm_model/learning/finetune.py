"""Fine-tuning of an adapter on samples, with transformers' Trainer: resumable, on one device or several.

    accelerate launch -m pixellm_model train --data FOLDER --out DIR   # on all GPUs

The frozen tower runs once per image; its features are kept in memory, within a bound, for all epochs.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from pixellm_model import adapter, checkpoint
from pixellm_model.engine.precision import resolve_precision
from pixellm_model.errors import DataError
from pixellm_model.learning.packing import PackedImage, choose_questions, pack_questions
from pixellm_model.learning.recipe import FineTuneRecipe
from pixellm_model.learning.training import forward_losses
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage
from pixellm_model.samples import PLACEHOLDER, Question, Sample
from pixellm_model.tokenizer import PromptTokenizer

log = logging.getLogger(__name__)

TEMPLATE_TOKENS = 64  # length kept free for the system prompt and the template's own tokens
ADAM_STATE_BYTES = 16  # per trained float32 weight: the weight, its gradient and AdamW's two moments


class Samples(Protocol):
    """A sequence of samples to train on, such as `data.SampleSet`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Steps done, those before an interruption included.
        steps: Steps altogether.
        loss: Sum of the last step's losses, unweighted.
        seconds_left: Estimate until the end.
    """

    step: int
    steps: int
    loss: float | None
    seconds_left: float | None


class PackedSamples(Dataset[PackedImage]):
    """Packed samples with the frozen tower's features, which are cached in half precision up to a bound.

    Each access chooses questions at random, up to `recipe.max_targets` targets. A question that is too long
    for the model is left out and named in `left_out`. An access raises DataError if the sample cannot be read
    or all its questions are too long.
    """

    def __init__(self, samples: Samples, model: PixelLM, tokenizer: PromptTokenizer, recipe: FineTuneRecipe):
        self._samples, self._model, self._tokenizer = samples, model, tokenizer
        self._recipe = recipe
        self._features: dict[int, tuple[torch.Tensor, ...]] = {}
        self._free_bytes = recipe.cache_bytes
        self.left_out: list[str] = []

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> PackedImage:
        sample = self._samples[index]
        packed = pack_questions(
            sample.image,
            self._choose(index, sample.questions),
            self._model.config,
            self._tokenizer,
            self._recipe.photo_size,
        )
        if isinstance(packed.image, ProcessedImage):
            packed.image = self._tower_features(index, packed.image)
        return packed

    def _tower_features(self, index: int, image: ProcessedImage) -> tuple[torch.Tensor, ...]:
        """Return the features of a sample's image, cached while there is room for them."""
        features = self._features.get(index)
        if features is None:
            with torch.no_grad():
                features = tuple(state[0].half() for state in self._model.tower_features([image]))
            num_bytes = sum(state.nbytes for state in features)
            if num_bytes <= self._free_bytes:
                self._features[index] = features
                self._free_bytes -= num_bytes
        return features

    def _choose(self, index: int, questions: Sequence[Question]) -> list[Question]:
        def fits(question: Question) -> bool:
            if self._fits(question):
                return True
            reason = f"sample {index}: {question.text[:80]!r} and its answer are too long for the model"
            if reason not in self.left_out:
                self.left_out.append(reason)
            return False

        shuffled = [questions[number] for number in torch.randperm(len(questions)).tolist()]
        chosen = choose_questions(shuffled, self._recipe.max_targets, fits)
        if not chosen:
            raise DataError(f"Nothing of sample {index} fits into the model's length; shorten its answers.")
        return chosen

    def _fits(self, question: Question) -> bool:
        run_length = len(self._tokenizer.codebook.ids)
        texts = [question.text, question.answer, *(text for turn in question.history for text in turn)]
        length = sum(len(self._tokenizer.encode(self._tokenizer.clean(text))) for text in texts)
        num_targets = sum(text.count(PLACEHOLDER) + text.count("[") for text in texts)
        config = self._model.config
        limit = config.llama.max_position_embeddings - config.image_tokens - TEMPLATE_TOKENS
        return length + run_length * num_targets <= limit


class _LossModule(nn.Module):
    """The model in the form that Trainer expects: a batch in, a loss out."""

    def __init__(self, model: PixelLM, tokenizer: PromptTokenizer, recipe: FineTuneRecipe):
        super().__init__()
        self.model, self._tokenizer, self._recipe = model, tokenizer, recipe
        self.parts: dict[str, float] = {}

    def forward(self, batch: list[PackedImage]) -> dict[str, torch.Tensor]:
        losses = forward_losses(self.model, self._tokenizer, batch, self._recipe)
        if not torch.isfinite(losses.total):
            raise FloatingPointError(
                "The loss is not finite; lower the learning rate (lr). What was saved before is intact."
            )
        self.parts = losses.parts
        return {"loss": losses.total}


class _AdapterTrainer(Trainer):
    """Saves and restores the adapter's tensors only, not the base's."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        module = self.accelerator.unwrap_model(self.model)
        tensors = {name: p.detach().cpu() for name, p in adapter.trained(module.model).items()}
        torch.save(tensors, folder / "adapter.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        module = self.accelerator.unwrap_model(self.model)
        tensors = torch.load(Path(resume_from_checkpoint) / "adapter.pt", weights_only=True)
        for name, parameter in adapter.trained(module.model).items():
            parameter.data.copy_(tensors[name])


class _StepCallback(TrainerCallback):
    """Calls `pause` before each step; writes the log and reports progress after it."""

    def __init__(
        self,
        out: Path,
        module: _LossModule,
        progress: Callable[[Progress], None] | None,
        pause: Callable[[], None],
    ):
        self._log, self._module, self._progress, self._pause = out / "log.jsonl", module, progress, pause
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
        seconds_per_step = (time.monotonic() - self._began) / (state.global_step - self._first)
        loss = sum(self._module.parts.values()) if self._module.parts else None
        line = {"step": state.global_step, "seconds": round(seconds_per_step, 3), **self._module.parts}
        with self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._progress:
            left = seconds_per_step * (state.max_steps - state.global_step)
            self._progress(Progress(state.global_step, state.max_steps, loss, left))


def steps_of(recipe: FineTuneRecipe, samples: int) -> int:
    """Number of optimizer steps of a run on one device with `samples` samples."""
    if recipe.max_steps > 0:
        return recipe.max_steps
    return math.ceil(recipe.epochs * math.ceil(samples / recipe.batch_size / recipe.accumulation))


def describe(model: PixelLM, recipe: FineTuneRecipe, samples: int) -> str:
    """A sentence on what a run will take: steps, and memory without activations."""
    trained = sum(p.numel() for p in adapter.trained(model).values())
    weights = sum(p.nbytes for p in model.parameters())
    config = model.config
    features = samples * 2 * config.grid**2 * config.feature_width * 2  # two scales, half precision
    mib = (weights + ADAM_STATE_BYTES * trained + min(features, recipe.cache_bytes)) / 2**20
    return (
        f"{samples} images, {steps_of(recipe, samples)} steps of {recipe.batch_size * recipe.accumulation}; "
        f"{trained / 1e6:.1f} M weights learn; at least {mib:.0f} MiB of memory, and activations"
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
    """Train an adapter. A run that was interrupted continues when called again with the same `out`.

    Args:
        base: Checkpoint folder of the base model; None for the shipped pixellm-mini.
        samples: What to train on.
        recipe: How to train; recorded as `out/recipe.json`.
        out: Folder of the run: `adapter/`, `recipe.json`, `log.jsonl` (one line a step), `checkpoints/`.
        device: "cpu", "cuda" ...; "auto" is a GPU if there is one.
        progress: Called after each step, on the main process.
        pause: Called before each step; may block, to leave the device to others.
        quiet: Show no progress bar.

    Returns:
        The adapter's folder, `out/adapter`.

    Raises:
        DataError: There is no sample, or one cannot be read or is too long for the model.
        CheckpointError: `base` is not a usable PixelLM.
        FloatingPointError: The loss is not finite. What was saved before stays intact.
    """
    if not len(samples):
        raise DataError("There is nothing to train on; give at least one sample.")
    device, _ = resolve_precision(device, "auto")
    torch.manual_seed(recipe.seed)
    base_model, model, tokenizer, config = _load(base, recipe, device)
    log.info("%s", describe(model, recipe, len(samples)))
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    module = _LossModule(model, tokenizer, recipe)
    packed = PackedSamples(samples, base_model, tokenizer, recipe)
    trainer = _AdapterTrainer(
        model=module,
        args=_training_arguments(recipe, out, device, quiet),
        train_dataset=packed,
        data_collator=lambda images: {"batch": images},
        callbacks=[_StepCallback(out, module, progress, pause)],
    )
    trainer.train(resume_from_checkpoint=_last_checkpoint(out / "checkpoints"))
    if trainer.is_world_process_zero():
        adapter.save(model, config, out / "adapter")
    if packed.left_out:
        log.info("%d questions were left out, the first: %s", len(packed.left_out), packed.left_out[0])
    return out / "adapter"


def _load(
    base: str | Path | None, recipe: FineTuneRecipe, device: str
) -> tuple[PixelLM, PixelLM, PromptTokenizer, adapter.AdapterConfig]:
    """The base, the base with a new adapter, the tokenizer and the adapter's configuration."""
    # Imported here because the segmenter imports all of inference, which training does not need otherwise.
    from pixellm_model.engine.segmenter import MINI

    folder = Path(base) if base is not None else MINI
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    base_model, tokenizer = checkpoint.load(folder, None, device, dtype)
    config = adapter.AdapterConfig(
        checkpoint.fingerprint(folder),
        tokenizer.codebook.ids,
        recipe.lora_r,
        recipe.lora_alpha,
        recipe.lora_dropout,
    )
    model = adapter.attach(base_model, config)
    if recipe.gradient_checkpointing:
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    return base_model, model, tokenizer, config


def _training_arguments(recipe: FineTuneRecipe, out: Path, device: str, quiet: bool) -> TrainingArguments:
    on_gpu = device.startswith("cuda")
    return TrainingArguments(
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


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint, None without one; Trainer writes `trainer_state.json` last."""
    if not folder.is_dir():
        return None
    last = get_last_checkpoint(str(folder))
    while last is not None and not (Path(last) / "trainer_state.json").is_file():
        Path(last).rename(Path(last).with_name(f"broken-{Path(last).name}"))
        last = get_last_checkpoint(str(folder))
    return last
