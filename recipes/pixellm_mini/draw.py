"""Teach the pixel decoder, from scratch, to draw what a target embedding names.

    python -m recipes.pixellm_mini.draw --base DIR --cutouts DIR --cache DIR --init FILE --out FILE

A decoder trained from the first step on learns to ignore embeddings that mean nothing yet, and draws whatever
stands out. So it starts anew here, once maps and embeddings agree: each name's embedding is what the language
model answers it with, and only the decoder learns.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from pixellm_model import checkpoint
from pixellm_model.learning.losses import mask_bce, mask_dice
from pixellm_model.learning.packing import decoder_cells
from pixellm_model.learning.training import answer_states, encode
from pixellm_model.model import PixelLM
from pixellm_model.pixel_decoder import PixelDecoder
from pixellm_model.samples import PLACEHOLDER
from pixellm_model.tokenizer import PromptTokenizer
from recipes.pixellm_mini.cached import Cache, CachedPicture
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.state import load_state, save_state

BATCH, LR, NOISE = 6, 1e-3, 0.1
NAMES_AT_ONCE = 25
MOST_TARGETS = 16  # a step
ABSENT = 0.15  # of the targets are names that are not there: nothing is to be drawn for them


@torch.no_grad()
def embeddings(
    model: PixelLM, tokenizer: PromptTokenizer, names: list[str], picture: CachedPicture
) -> torch.Tensor:
    """What the language model answers each name with, (names, 2, dim), on one picture."""
    found = []
    for start in range(0, len(names), NAMES_AT_ONCE):
        texts = [
            (f"the {name}", f"{name} is {PLACEHOLDER}.") for name in names[start : start + NAMES_AT_ONCE]
        ]
        packed = picture.asked(texts, model.config, tokenizer)
        states = answer_states(model, [packed]).target_states(tokenizer)
        found.append(tokenizer.codebook.fuse(model.target_embeddings(states)))
    return torch.cat(found)


def wanted(picture: CachedPicture, names: list[str], rng: np.random.Generator) -> dict[int, torch.Tensor]:
    """Names' indices with what is to be drawn for them, (4g, 4g) in 0..1: all things of a name as one."""
    drawn: dict[int, torch.Tensor] = {}
    for name, mask in zip(picture.names, picture.masks.float() / 255, strict=True):
        index = names.index(name)
        drawn[index] = torch.maximum(drawn.get(index, torch.zeros_like(mask)), mask)
    if rng.random() < ABSENT * len(drawn) and picture.complete:
        drawn.setdefault(int(rng.integers(len(names))), torch.zeros(picture.masks.shape[1:]))
    return drawn


def draw(
    model: PixelLM,
    tokenizer: PromptTokenizer,
    cache: Cache,
    names: list[str],
    named: torch.Tensor,
    minutes: float,
) -> None:
    """Replace and train the decoder of `model`; `named` are embeddings (n, names, 2, dim) to choose from."""
    decoder = PixelDecoder(model.config.decoder_dim, model.config.decoder_mlp_dim)
    for table in (decoder.iou_token, decoder.mask_tokens, decoder.level_embed):
        torch.nn.init.normal_(table.weight, std=0.2)
    model.model.mask_decoder = decoder
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LR, weight_decay=0.01, betas=(0.9, 0.98))
    rng, noise = np.random.default_rng(0), NOISE * named.std()
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        pictures = [cache[int(index)] for index in rng.choice(len(cache), BATCH, replace=False)]
        asked = [
            (row, name, mask)
            for row, picture in enumerate(pictures)
            for name, mask in wanted(picture, names, rng).items()
        ]
        asked = [asked[int(index)] for index in rng.permutation(len(asked))[:MOST_TARGETS]]
        owner = torch.tensor([row for row, _, _ in asked])
        masks = torch.stack([mask for _, _, mask in asked])
        targets = named[
            torch.from_numpy(rng.integers(len(named), size=len(asked))), [name for _, name, _ in asked]
        ]
        inside = torch.stack([decoder_cells(p.resized, model.config) for p in pictures])[owner].float()
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 40) * (0.03 + 0.97 * np.cos(np.pi / 2 * progress))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                shown = [picture.asked([], model.config, tokenizer) for picture in pictures]
                maps = encode(model, shown).maps
            noisy = targets + noise * torch.randn_like(targets)
            logits, _ = decoder(noisy, decoder.sources(maps), model.model.prompt_encoder, owner)
        bce = mask_bce(logits.float(), masks, inside).mean()
        dice = mask_dice(logits.float(), masks, inside).mean()
        optimizer.zero_grad()
        (2 * bce + dice).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(f"{step}: bce {bce:.3f} dice {dice:.3f}", flush=True)


def main() -> None:
    """Train the pixel decoder and write the weights."""
    parser = command(__doc__, "--base", "--cutouts", "--cache", "--init", "--out")
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    load_state(model, args.init)
    cache = Cache(*args.cache)
    names = cache.names
    named = torch.stack([embeddings(model, tokenizer, names, cache[number]) for number in range(4)])
    draw(model, tokenizer, cache, names, named, args.minutes)
    save_state(model, args.out)


if __name__ == "__main__":
    main()
