"""Teach the projectors what the names look like, before the language model joins in.

    python -m recipes.pixellm_mini.align --base DIR --cutouts DIR --cache DIR --out FILE --minutes 8

Only projectors and neck are trained, on cached features, much faster than the whole model.
`out_mm_projector` and the neck learn maps on which a vector per name tells its cells; those vectors
become what the language model is then taught to answer each name with. `mm_projector` learns to turn a cell
into the input embedding of its thing's name, the words that questions are asked in. Writes weights for
`train --init`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pixellm_model import checkpoint
from pixellm_model.learning.training import answer_states
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import patch_mask
from pixellm_model.samples import PLACEHOLDER
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import NAMED, listed
from pixellm_model.tokenizer import PromptTokenizer
from recipes.pixellm_mini.cached import Cache, CachedPicture
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.draw import embeddings as answers_of
from recipes.pixellm_mini.state import load_state, save_state

BACKGROUND_WEIGHT = 0.3
BATCH = 24
VECTOR_LR = 1e-2
SHARPNESS = 15.0  # of the cosine between a cell's token and a name's embedding


def name_embeddings(model: PixelLM, tokenizer: PromptTokenizer, names: list[str]) -> torch.Tensor:
    """Mean input embedding of each name's tokens: (names, D)."""
    table = model.model.embed_tokens.weight.data
    return torch.stack([table[tokenizer.encode(name)[1:]].mean(0) for name in names])


@torch.no_grad()
def answers(model: PixelLM, tokenizer: PromptTokenizer, cache: Cache) -> torch.Tensor:
    """What the language model answers each name with now, averaged over some pictures: (2, names, dim)."""
    found = [answers_of(model, tokenizer, cache.names, cache[number]) for number in range(4)]
    return torch.stack(found).mean(0).transpose(0, 1).contiguous()


def cell_labels(picture: CachedPicture, grid: int, image_size: int, names: list[str]) -> torch.Tensor:
    """(grid, grid) index of the name that covers most of each cell, 0 for none, -1 outside the image."""
    cover = torch.zeros(len(names) + 1, grid, grid)
    cover[0] = 0.3  # a thing must cover this much of a cell to name it
    for name, mask in zip(picture.names, picture.masks, strict=True):
        index = 1 + names.index(name)
        share = F.adaptive_avg_pool2d(mask[None].float() / 255, grid)[0]
        cover[index] = torch.maximum(cover[index], share)
    labels = cover.argmax(0)
    labels[~patch_mask(picture.resized, image_size, image_size // grid)] = -1
    return labels


def align(
    model: PixelLM,
    cache: Cache,
    embeddings: torch.Tensor,
    start: torch.Tensor | None,
    minutes: float,
    lr: float,
) -> torch.Tensor:
    """Train projectors and neck of `model` in place.

    Args:
        model: the model.
        cache: pictures with the towers' features.
        embeddings: (names, D) input embeddings of the names.
        start: (2, names, dim) vectors to start from; None for random ones.
        minutes: how long to train.
        lr: peak learning rate of projectors and neck.

    Returns:
        The names' vectors, (2, names, dim).
    """
    names = cache.names
    dim, grid, size = model.config.decoder_dim, model.config.grid, model.config.image_size
    vectors = nn.Parameter(0.5 * torch.randn(2, len(names), dim) if start is None else start)
    parts = (model.model.mm_projector, model.model.out_mm_projector, model.model.image_feature_neck)
    parameters = [vectors, *(p for part in parts for p in part.parameters())]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [{"params": [vectors], "peak": VECTOR_LR}, {"params": parameters[1:], "peak": lr}], weight_decay=0.01
    )
    weight = torch.ones(len(names) + 1)
    weight[0] = BACKGROUND_WEIGHT
    unit, length = F.normalize(embeddings, dim=-1), embeddings.norm(dim=-1).mean()
    began, step = time.monotonic(), 0
    rng = np.random.default_rng(0)
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        chosen = [cache[int(index)] for index in rng.choice(len(cache), BATCH, replace=False)]
        features = torch.stack([torch.stack(picture.features[:2]) for picture in chosen])
        fine = torch.stack([cell_labels(picture, grid, size, names) for picture in chosen])
        coarse = torch.stack([cell_labels(picture, grid // 2, size, names) for picture in chosen])
        for group in optimizer.param_groups:
            warm = min(1, (step + 1) / 50)
            group["lr"] = group["peak"] * warm * (0.02 + 0.98 * np.cos(np.pi / 2 * progress))
        with torch.autocast("cpu", torch.bfloat16):
            known = torch.ones(BATCH, grid, grid, dtype=torch.bool)
            image = model.project_features([features[:, 0].float(), features[:, 1].float()], known)
        scores = torch.einsum("lkc,lnchw->lnkhw", vectors, image.maps.float()) / dim**0.5 - 2
        scores = F.pad(scores, (0, 0, 0, 0, 1, 0)).flatten(0, 1)  # background scores 0
        maps_loss = F.cross_entropy(scores, fine.repeat(2, 1, 1), weight, ignore_index=-1)
        tokens = image.tokens.float()
        cosine = F.pad(SHARPNESS * F.normalize(tokens, dim=-1) @ unit.T - SHARPNESS / 2, (1, 0))
        tokens_loss = F.cross_entropy(cosine.transpose(1, 2), coarse.flatten(1), weight, ignore_index=-1)
        lengths = (tokens.norm(dim=-1) / length - 1).square().mean()
        optimizer.zero_grad()
        (maps_loss + tokens_loss + 0.1 * lengths).backward()
        optimizer.step()
        step += 1
        if step % 25 == 0:
            thing = fine.repeat(2, 1, 1) > 0
            right = (scores.argmax(1) == fine.repeat(2, 1, 1))[thing].float().mean()
            print(
                f"{step} maps {maps_loss:.3f} (things right {right:.2f}) tokens {tokens_loss:.3f}", flush=True
            )

    return vectors.detach()


def teach(
    model: PixelLM,
    tokenizer: PromptTokenizer,
    cache: Cache,
    nouns: Nouns,
    vectors: torch.Tensor,
    minutes: float,
) -> None:
    """Teach the language model in place to answer each name with its vector, whatever the image shows.

    Many short questions share one image, so that this sees far more names a minute than real samples do.
    """
    names, rng = cache.names, np.random.default_rng(0)
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.model.text_hidden_fcs.parameters()), "peak": 1e-3},
            {"params": list(model.model.layers.parameters()), "peak": 3e-4},
            {"params": [model.model.embed_tokens.weight], "peak": 3e-4},
        ],
        weight_decay=0.01,
    )
    unit = F.normalize(vectors, dim=-1)
    scale = vectors.var()
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                group["peak"] * min(1, (step + 1) / 20) * (0.05 + 0.95 * np.cos(np.pi / 2 * progress))
            )
        asked = rng.choice(len(names), 32, replace=False).reshape(-1, 2)
        texts, wanted = [], []
        for pair in asked:
            chosen = pair[: 1 + int(rng.random() < 0.5)]
            asked_for = [nouns[names[index]] for index in chosen]
            words = [str(rng.choice([noun.name, noun.name, *noun.synonyms])) for noun in asked_for]
            text = NAMED[int(rng.integers(len(NAMED)))].format(x=listed(words))
            texts.append((text, listed([f"{word} is {PLACEHOLDER}" for word in words]) + "."))
            wanted += chosen.tolist()
        picture = cache[int(rng.integers(len(cache)))]
        packed = picture.asked(texts, model.config, tokenizer)
        with torch.autocast("cpu", torch.bfloat16):
            states = answer_states(model, [packed]).target_states(tokenizer)
            targets = tokenizer.codebook.fuse(model.target_embeddings(states)).float()  # (N, 2, dim)
        truth = vectors[:, wanted].transpose(0, 1)
        cosine = SHARPNESS * torch.einsum("nlc,lkc->nlk", F.normalize(targets, dim=-1), unit)
        index = torch.tensor(wanted)
        naming = F.cross_entropy(cosine.flatten(0, 1), index.repeat_interleave(2))
        distance = (targets - truth).square().mean() / scale
        optimizer.zero_grad()
        (naming + distance).backward()
        torch.nn.utils.clip_grad_norm_(model.model.layers.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 25 == 0:
            right = (cosine.argmax(-1) == index[:, None]).float().mean()
            print(f"{step}: names {naming:.3f} (right {right:.2f}) distance {distance:.3f}", flush=True)


def main() -> None:
    """Align, teach and write the weights."""
    parser = command(__doc__, "--base", "--cutouts", "--cache", "--out")
    parser.add_argument("--init", type=Path, help="weights to start from, as `train --init` takes")
    parser.add_argument("--go-on", action="store_true", help="begin with the language model's own answers")
    parser.add_argument("--minutes", type=float, default=8.0, help="for the maps")
    parser.add_argument("--teach-minutes", type=float, default=3.0, help="for the language model")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    load_state(model, args.init)
    cache = Cache(*args.cache)
    words = name_embeddings(model, tokenizer, cache.names)
    start = answers(model, tokenizer, cache) if args.go_on else None
    vectors = align(model, cache, words, start, args.minutes, args.lr)
    teach(model, tokenizer, cache, Nouns(args.cutouts / "vocabulary.json"), vectors, args.teach_minutes)
    save_state(model, args.out)


if __name__ == "__main__":
    main()
