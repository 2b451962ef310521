"""Teacher-forced training on packed samples: the forward pass and the losses of one step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from pixellm_model.config import PixelLMConfig
from pixellm_model.engine.generate import key_mask
from pixellm_model.learning.losses import mask_bce, mask_dice, refinement_weight
from pixellm_model.learning.packing import PackedImage, decoder_cells
from pixellm_model.model import ImageFeatures, PixelLM
from pixellm_model.preprocess import ProcessedImage, restore_masks
from pixellm_model.tokenizer import PromptTokenizer

IGNORE = -100  # label of positions without a token loss
ALIGN_BIAS = 2.0  # subtracted from the alignment logits: most cells do not show the target


@dataclass(frozen=True)
class LossRecipe:
    """The losses of a training step. The default weights are the paper's.

    Attributes:
        ce_weight: Weight of the answer tokens' cross-entropy.
        bce_weight: Weight of the masks' binary cross-entropy.
        dice_weight: Weight of the masks' dice loss.
        align_weight: Weight of the alignment loss, which the paper does not have; 0 leaves it out.
        refine: Use the target refinement loss: contested pixels weigh `refine_alpha` in the BCE.
        refine_alpha: See `refine`.
        photo_size: Take the mask losses at the photo's size, as the reference does; otherwise at the pixel
            decoder's resolution, which is faster.
        max_drawn: How many targets per step the pixel decoder draws, chosen at random; None for all.
    """

    ce_weight: float = 1.0
    bce_weight: float = 2.0
    dice_weight: float = 0.5
    align_weight: float = 0.0
    refine: bool = False
    refine_alpha: float = 2.0
    photo_size: bool = False
    max_drawn: int | None = None


@dataclass
class Losses:
    """The weighted sum of a step's losses, with its graph, and each loss by name, unweighted."""

    total: torch.Tensor
    parts: dict[str, float] = field(default_factory=dict)


@dataclass
class Answers:
    """Teacher-forced answers of a batch, with n tokens altogether.

    Attributes:
        hidden: (n, D) the hidden state that predicts each answer token.
        tokens: (n,) the answer tokens.
        is_supervised: (n,) bool, whether the token loss is taken; false in negatives.
        image: The batch's image features.
    """

    hidden: torch.Tensor
    tokens: torch.Tensor
    is_supervised: torch.Tensor
    image: ImageFeatures

    def target_states(self, tokenizer: PromptTokenizer) -> torch.Tensor:
        """The hidden states that predict codebook tokens, in order: (codebook size * N, D)."""
        first, last = tokenizer.codebook.ids[0], tokenizer.codebook.ids[-1]
        return self.hidden[(self.tokens >= first) & (self.tokens <= last)]


def encode(model: PixelLM, batch: list[PackedImage]) -> ImageFeatures:
    """Image features of a batch; the tower runs only for images whose features are not given."""
    pixels = [packed.image for packed in batch if isinstance(packed.image, ProcessedImage)]
    computed = iter(zip(*model.tower_features(pixels), strict=True) if pixels else ())
    features = [
        next(computed) if isinstance(packed.image, ProcessedImage) else packed.image for packed in batch
    ]
    states = [
        torch.stack([state.to(model.device, model.dtype) for state in level])
        for level in zip(*features, strict=True)
    ]
    return model.project_features(states, model.patch_masks([packed.resized for packed in batch]))


def answer_states(model: PixelLM, batch: list[PackedImage]) -> Answers:
    """Run a batch through tower and language model, teacher-forced."""
    image = encode(model, batch)
    rows = [_Sequence.of(model, packed, image, number) for number, packed in enumerate(batch)]
    pad, device = torch.nn.utils.rnn.pad_sequence, model.device
    segments = pad([row.segments for row in rows], batch_first=True, padding_value=-1).to(device)
    hidden = model.model(
        inputs_embeds=pad([row.embeds for row in rows], batch_first=True),
        attention_mask=_branch_mask(segments, pad([row.visible for row in rows], batch_first=True)),
        position_ids=pad([row.positions for row in rows], batch_first=True).to(device),
        use_cache=False,
    ).last_hidden_state  # (B, T, D)
    labels = pad([row.labels for row in rows], batch_first=True, padding_value=IGNORE).to(device)[:, 1:]
    is_supervised = pad([row.is_supervised for row in rows], batch_first=True).to(device)[:, 1:]
    is_answer = labels != IGNORE
    return Answers(hidden[:, :-1][is_answer], labels[is_answer], is_supervised[is_answer], image)


@dataclass
class _Sequence:
    """One packed image as the language model's input, T positions long.

    `segments` number the branch of each position, 0 for the prefix. `labels` are the answers' tokens.
    """

    embeds: torch.Tensor  # (T, D)
    positions: torch.Tensor  # (T,)
    segments: torch.Tensor  # (T,)
    visible: torch.Tensor  # (T,) bool, false for image tokens of padding
    labels: torch.Tensor  # (T,)
    is_supervised: torch.Tensor  # (T,) bool

    @classmethod
    def of(cls, model: PixelLM, packed: PackedImage, image: ImageFeatures, row: int) -> _Sequence:
        start = len(packed.prefix) - 1 + image.tokens.shape[1]
        embeds = [model.embed(packed.prefix, image.tokens[row])]
        positions, segments = [torch.arange(start)], [torch.zeros(start, dtype=torch.long)]
        labels = [torch.full((start,), IGNORE)]
        for number, (ids, answer_at) in enumerate(packed.branches, 1):
            tokens = torch.tensor(ids)
            embeds.append(model.model.embed_tokens(tokens.to(model.device)))
            positions.append(torch.arange(start, start + len(ids)))
            segments.append(torch.full((len(ids),), number))
            labels.append(torch.where(torch.arange(len(ids)) < answer_at, IGNORE, tokens))
        prefix_visible = key_mask(packed.prefix, image.token_mask[row])
        segment = torch.cat(segments)
        return cls(
            torch.cat(embeds),
            torch.cat(positions),
            segment,
            F.pad(prefix_visible, (0, len(segment) - start), value=True),
            torch.cat(labels),
            segment <= len(packed.branches) - packed.num_negatives,
        )


def forward_losses(
    model: PixelLM, tokenizer: PromptTokenizer, batch: list[PackedImage], recipe: LossRecipe
) -> Losses:
    """The losses of one training step.

    Args:
        model: The model; gradients flow where its parameters require them.
        tokenizer: Its tokenizer.
        batch: Packed images, with `photo_masks` if `recipe.photo_size`.
        recipe: Which losses, and their weights.

    Returns:
        Token cross-entropy over the batch's answer tokens, and BCE, dice and alignment averaged over its
        targets.
    """
    answers = answer_states(model, batch)
    supervised = answers.is_supervised
    ce = F.cross_entropy(model.lm_head(answers.hidden[supervised]).float(), answers.tokens[supervised])
    parts = {"ce": ce.item()}
    total = recipe.ce_weight * ce
    states = answers.target_states(tokenizer)
    if not len(states):
        return Losses(total, parts)
    targets = tokenizer.codebook.fuse(model.target_embeddings(states))  # (N, 2, dim)
    maps = answers.image.maps
    truth = _Truth(batch, tokenizer, model.config, model.device)
    if recipe.align_weight:
        align = _alignment(
            targets[:, : len(maps)], maps[:, truth.owner], truth.masks, truth.inside[truth.owner]
        )
        parts["align"] = align.item()
        total = total + recipe.align_weight * align
    drawn = torch.randperm(len(targets), device=model.device)[: recipe.max_drawn].sort().values
    if len(drawn):
        logits, _ = model.decode_from(targets[drawn], model.sources(answers.image), truth.owner[drawn])
        bce, dice = _mask_losses(logits.float(), drawn, truth, recipe)
        parts |= {"bce": bce.item(), "dice": dice.item()}
        total = total + recipe.bce_weight * bce + recipe.dice_weight * dice
    return Losses(total, parts)


class _Truth:
    """The true masks of a batch's N targets, and where they belong.

    Attributes:
        owner: (N,) the image of each target, as index into the batch.
        question: (N,) the question of each target, numbered through the batch.
        masks: (N, 4g, 4g) in 0..1.
        inside: (B, 4g, 4g), 1 where a cell of the pixel decoder is not padding.
    """

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
    losses, start = [], 0
    for row, packed in enumerate(truth.batch):
        assert packed.photo_masks is not None or not len(packed.masks), "packed without photo_masks"
        selected = truth.owner[drawn] == row
        if packed.photo_masks is not None and selected.any():
            masks = packed.photo_masks.to(logits.device)[drawn[selected] - start].float()
            size = (int(masks.shape[1]), int(masks.shape[2]))
            at_size = restore_masks(logits[selected], packed.resized, size, truth.config.image_size)
            question = truth.question[drawn[selected]]
            losses.append(_per_mask(at_size, masks, torch.ones_like(masks), question, recipe))
        start += len(packed.masks)
    return _means(losses)


def _per_mask(
    logits: torch.Tensor,
    masks: torch.Tensor,
    valid: torch.Tensor,
    question: torch.Tensor,
    recipe: LossRecipe,
) -> tuple[torch.Tensor, torch.Tensor]:
    weight = refinement_weight(logits, question, recipe.refine_alpha) if recipe.refine else None
    return mask_bce(logits, masks, valid, weight), mask_dice(logits, masks, valid)


def _means(losses: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    bce, dice = zip(*losses, strict=True)
    return torch.cat(bce).mean(), torch.cat(dice).mean()


def _alignment(
    targets: torch.Tensor, maps: torch.Tensor, masks: torch.Tensor, inside: torch.Tensor
) -> torch.Tensor:
    """Mask losses of the plain product of target embedding (N, 2, dim) and feature map (2, N, dim, g, g).

    The decoder has to learn by cross-attention which part of the map an embedding means. From scratch that
    takes long; this loss aligns embeddings and maps directly. `masks` (N, 4g, 4g), `inside` (N, 4g, 4g).
    """
    grid = maps.shape[-1]
    logits = (
        torch.einsum("nlc,lnchw->lnhw", targets.float(), maps.float()) / maps.shape[2] ** 0.5 - ALIGN_BIAS
    )
    coarse = F.adaptive_avg_pool2d(masks, grid).repeat(len(maps), 1, 1)
    where = F.adaptive_max_pool2d(inside, grid).repeat(len(maps), 1, 1)
    flat = logits.flatten(0, 1)
    return (mask_bce(flat, coarse, where) + mask_dice(flat, coarse, where)).mean()


def _branch_mask(segments: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, T) branch numbers (0 = prefix, -1 = padding) -> (B, 1, T, T) bool, true where a key is seen."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    own = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == 0)[:, None, :]
    seen = causal & (own | prefix) & valid[:, None, :]
    # A padding query must see something, or its softmax is not finite: it sees itself.
    return (seen | torch.eye(length, dtype=torch.bool, device=segments.device))[:, None]
