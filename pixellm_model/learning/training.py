"""Teacher-forced training on packed samples: the forward and its losses, and the mini's own run by the clock.

Fine-tuning (`finetune.py`) shares everything here but `train`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pixellm_model.config import PixelLMConfig
from pixellm_model.engine.generate import key_mask
from pixellm_model.learning.losses import mask_bce, mask_dice, refinement_weight
from pixellm_model.learning.packing import PackedImage, decoder_cells, pack
from pixellm_model.model import ImageFeatures, PixelLM
from pixellm_model.preprocess import ProcessedImage, restore_masks
from pixellm_model.samples import Sample
from pixellm_model.tokenizer import PromptTokenizer

IGNORE = -100


@dataclass(frozen=True)
class LossRecipe:
    """What is learned from an answer. The weights' defaults are the paper's."""

    ce_weight: float = 1.0
    bce_weight: float = 2.0
    dice_weight: float = 0.5
    align_weight: float = 0.0  # ours, not the paper's; 0 trains as the paper does
    refine: bool = False  # the target refinement loss: contested pixels weigh refine_alpha in the BCE
    refine_alpha: float = 2.0
    photo_size: bool = (
        False  # mask losses at the photo's size, as the reference; else where masks are decoded
    )
    max_drawn: int | None = None  # targets a step that the pixel decoder draws, chosen at random; 0: none


@dataclass(frozen=True)
class Recipe(LossRecipe):
    """How to train. Rates are AdamW's; the language model starts pretrained and moves more slowly."""

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
    frozen: tuple[str, ...] = ("model.vision_tower.",)  # parameters of these prefixes do not learn
    seed: int = 0
    log_every: int = 20
    save_every: int = 100


@dataclass
class Losses:
    total: torch.Tensor
    parts: dict[str, float] = field(default_factory=dict)


@dataclass
class Answers:
    """Teacher-forced answers of a batch: what predicts each answer token, (n, D), the tokens, (n,), and
    whether each is to be learned, (n,) bool."""

    hidden: torch.Tensor
    tokens: torch.Tensor
    learned: torch.Tensor
    image: ImageFeatures

    def target_states(self, tokenizer: PromptTokenizer) -> torch.Tensor:
        """The states that predict codebook tokens, in order: (6 N, D)."""
        first, last = tokenizer.codebook.ids[0], tokenizer.codebook.ids[-1]
        return self.hidden[(self.tokens >= first) & (self.tokens <= last)]


def encode(model: PixelLM, batch: list[PackedImage]) -> ImageFeatures:
    """The batch's images as the model sees them; the tower runs only for those that still are pixels."""
    pixels = [packed.image for packed in batch if isinstance(packed.image, ProcessedImage)]
    seen = iter(torch.stack(model.tower_features(pixels)).unbind(1) if pixels else ())
    kept = [packed.image if isinstance(packed.image, torch.Tensor) else next(seen) for packed in batch]
    states = torch.stack([k.to(model.device, model.dtype) for k in kept], dim=1)  # (2, B, g*g, C)
    return model.project_features(list(states), model.patch_masks([packed.resized for packed in batch]))


def answer_states(model: PixelLM, batch: list[PackedImage]) -> Answers:
    """Run packed samples through tower and language model."""
    device = model.device
    image = encode(model, batch)
    sequences, positions, segments, valid, labels, truths = [], [], [], [], [], []
    for row, packed in enumerate(batch):
        start = len(packed.prefix) - 1 + image.tokens.shape[1]
        embeds = [model.embed(packed.prefix, image.tokens[row])]
        keep = key_mask(packed.prefix, image.token_mask[row])
        place, segment, label = (
            [torch.arange(start)],
            [torch.zeros(start, dtype=torch.long)],
            [torch.full((start,), IGNORE)],
        )
        for number, (ids, answer_at) in enumerate(packed.branches, 1):
            tokens = torch.tensor(ids)
            embeds.append(model.model.embed_tokens(tokens.to(device)))
            place.append(torch.arange(start, start + len(ids)))
            segment.append(torch.full((len(ids),), number))
            label.append(torch.where(torch.arange(len(ids)) < answer_at, IGNORE, tokens))
        sequences.append(torch.cat(embeds))
        positions.append(torch.cat(place))
        segments.append(torch.cat(segment))
        labels.append(torch.cat(label))
        truths.append(segments[-1] <= len(packed.branches) - packed.supposed)
        valid.append(F.pad(keep, (0, len(sequences[-1]) - start), value=True))
    pad = torch.nn.utils.rnn.pad_sequence
    hidden = model.model(
        inputs_embeds=pad(sequences, batch_first=True),
        attention_mask=_branch_mask(
            pad(segments, batch_first=True, padding_value=-1).to(device), pad(valid, batch_first=True)
        ),
        position_ids=pad(positions, batch_first=True).to(device),
        use_cache=False,
    ).last_hidden_state  # (B, T, D)
    wanted = pad(labels, batch_first=True, padding_value=IGNORE).to(device)[:, 1:]
    asked = wanted != IGNORE
    learned = pad(truths, batch_first=True).to(device)[:, 1:]
    return Answers(hidden[:, :-1][asked], wanted[asked], learned[asked], image)


def forward_losses(
    model: PixelLM, tokenizer: PromptTokenizer, batch: list[PackedImage], recipe: LossRecipe
) -> Losses:
    """Token cross-entropy on the answers plus BCE and dice on the masks, each averaged over its batch."""
    answers = answer_states(model, batch)
    told = answers.learned
    ce = F.cross_entropy(model.lm_head(answers.hidden[told]).float(), answers.tokens[told])
    parts = {"ce": ce.item()}
    total = recipe.ce_weight * ce
    states = answers.target_states(tokenizer)
    if not len(states):
        return Losses(total, parts)
    targets = tokenizer.codebook.fuse(model.target_embeddings(states))  # (N, 2, dim)
    maps = answers.image.maps
    truth = _Truth(batch, tokenizer, model.config, model.device)
    if recipe.align_weight:
        align = _alignment(targets, maps[:, truth.owner], truth.masks, truth.inside[truth.owner])
        parts["align"] = align.item()
        total = total + recipe.align_weight * align
    drawn = torch.randperm(len(targets), device=model.device)[: recipe.max_drawn].sort().values
    if len(drawn):
        logits, _ = model.decode_targets(targets[drawn], maps, truth.owner[drawn])
        bce, dice = _mask_losses(logits.float(), drawn, truth, recipe)
        parts |= {"bce": bce.item(), "dice": dice.item()}
        total = total + recipe.bce_weight * bce + recipe.dice_weight * dice
    return Losses(total, parts)


class _Truth:
    """What a batch's N targets are: `owner` (N,) their image, `question` (N,) their question, `masks`
    (N, 4g, 4g), and per image `inside` (B, 4g, 4g), 1 where the decoder's cells are not padding."""

    def __init__(
        self,
        batch: list[PackedImage],
        tokenizer: PromptTokenizer,
        config: PixelLMConfig,
        device: torch.device,
    ):
        self.batch, self.config = batch, config
        counts = [len(packed.masks) for packed in batch]
        per_question = [
            ids[answer_at:].count(tokenizer.codebook.ids[0])
            for packed in batch
            for ids, answer_at in packed.branches
        ]
        self.owner = torch.arange(len(batch)).repeat_interleave(torch.tensor(counts)).to(device)
        self.question = (
            torch.arange(len(per_question)).repeat_interleave(torch.tensor(per_question)).to(device)
        )
        self.masks = torch.cat([packed.masks for packed in batch]).to(device)
        inside = torch.stack([decoder_cells(packed.resized, config) for packed in batch])
        self.inside = inside.float().to(device)


def _mask_losses(
    logits: torch.Tensor, drawn: torch.Tensor, truth: _Truth, recipe: LossRecipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean BCE and dice of the logits (n, 4g, 4g) of the targets `drawn`, (n,) in ascending order."""
    if not recipe.photo_size:
        owner, question = truth.owner[drawn], truth.question[drawn]
        return _means([_per_mask(logits, truth.masks[drawn], truth.inside[owner], question, recipe)])
    found, start = [], 0
    for row, packed in enumerate(truth.batch):
        assert packed.photo_masks is not None or not len(packed.masks), "packed without photo_masks"
        mine = truth.owner[drawn] == row
        if packed.photo_masks is not None and mine.any():
            full = packed.photo_masks.to(logits.device)[drawn[mine] - start].float()
            size = (int(full.shape[1]), int(full.shape[2]))
            at_size = restore_masks(logits[mine], packed.resized, size, truth.config.image_size)
            question = truth.question[drawn[mine]]
            found.append(_per_mask(at_size, full, torch.ones_like(full), question, recipe))
        start += len(packed.masks)
    return _means(found)


def _per_mask(
    logits: torch.Tensor,
    masks: torch.Tensor,
    valid: torch.Tensor,
    question: torch.Tensor,
    recipe: LossRecipe,
) -> tuple[torch.Tensor, torch.Tensor]:
    weight = refinement_weight(logits, question, recipe.refine_alpha) if recipe.refine else None
    return mask_bce(logits, masks, valid, weight), mask_dice(logits, masks, valid)


def _means(found: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    bce, dice = zip(*found, strict=True)
    return torch.cat(bce).mean(), torch.cat(dice).mean()


def _alignment(
    targets: torch.Tensor, maps: torch.Tensor, masks: torch.Tensor, inside: torch.Tensor
) -> torch.Tensor:
    """How badly the product of target embedding (N, 2, dim) and feature map (2, N, dim, g, g) shows the mask.

    The decoder must find by cross-attention which part of the map an embedding means. From scratch that
    takes long to be discovered; asking for it directly makes the two speak of the same thing early.
    """
    grid = maps.shape[-1]
    logits = torch.einsum("nlc,lnchw->lnhw", targets.float(), maps.float()) / maps.shape[2] ** 0.5 - 2
    coarse = F.adaptive_avg_pool2d(masks, grid).repeat(2, 1, 1)
    where = F.adaptive_max_pool2d(inside, grid).repeat(2, 1, 1)
    flat = logits.flatten(0, 1)
    return (mask_bce(flat, coarse, where) + mask_dice(flat, coarse, where)).mean()


def _branch_mask(segments: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, T) branch numbers (0 = prefix, -1 = padding) -> (B, 1, T, T) bool, true where a key is seen."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    own = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == 0)[:, None, :]
    seen = causal & (own | prefix) & valid[:, None, :]
    # A padding query has nothing to see; let it see itself so that the softmax stays finite.
    return (seen | torch.eye(length, dtype=torch.bool, device=segments.device))[:, None]


def train(
    model: PixelLM,
    tokenizer: PromptTokenizer,
    samples: Iterable[Sample | PackedImage],
    recipe: Recipe,
    out: Path,
) -> Iterator[dict[str, float]]:
    """Train for `recipe.minutes`, yielding averaged losses; `out` holds the newest state (resumed if there).

    The schedule follows the clock, so that a slow machine ends the run on a low rate too. Raises
    FloatingPointError when a loss is not finite; the last saved state stays whole.
    """
    torch.manual_seed(recipe.seed)
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(recipe.frozen))
    # LLaMA's own children of `model`; every other part starts from scratch.
    language = [p for n, p in model.named_parameters() if p.requires_grad and _is_language(n)]
    fresh = [p for n, p in model.named_parameters() if p.requires_grad and not _is_language(n)]
    groups = [{"params": fresh, "peak": recipe.lr}, {"params": language, "peak": recipe.lr_language}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    state_file = out / "training.pt"
    step, spent = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    began = time.monotonic() - spent
    averages: dict[str, float] = {}
    batch: list[PackedImage] = []
    for sample in samples:
        if isinstance(sample, Sample):
            sample = pack(sample, model, tokenizer, recipe.max_targets)
        batch.append(sample)
        if len(batch) < recipe.batch_size:
            continue
        progress = (time.monotonic() - began) / (60 * recipe.minutes)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(progress, step, recipe)
        with torch.autocast(model.device.type, torch.bfloat16):
            losses = forward_losses(model, tokenizer, batch, recipe)
        if not torch.isfinite(losses.total):
            raise FloatingPointError(
                f"The loss at step {step} is not finite; the state saved before is whole."
            )
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(fresh + language, recipe.clip_norm)
        optimizer.step()
        step, batch = step + 1, []
        for key, value in losses.parts.items():
            averages[key] = 0.95 * averages.get(key, value) + 0.05 * value
        done = progress >= 1
        if step % recipe.log_every == 0 or done:
            yield {"step": step, "minutes": (time.monotonic() - began) / 60, **averages}
        if step % recipe.save_every == 0 or done:
            _save_state(state_file, model, optimizer, step, time.monotonic() - began)
        if done:
            break
    model.eval().requires_grad_(False)


def _is_language(name: str) -> bool:
    return name.startswith(("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head."))


def _schedule(progress: float, step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine to `final_lr` by the clock."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, progress)))
    return float(warm * (recipe.final_lr + (1 - recipe.final_lr) * cosine))


def learned_weights(model: PixelLM) -> dict[str, torch.Tensor]:
    """All weights but the towers', which never change."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("model.vision_tower.")}


def _save_state(
    path: Path, model: PixelLM, optimizer: torch.optim.Optimizer, step: int, spent: float
) -> None:
    """Written aside and renamed, so that a kill in between leaves the former state whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {"model": learned_weights(model), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "spent": spent}, partial)
    partial.replace(path)
