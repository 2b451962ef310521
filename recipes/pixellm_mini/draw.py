"""Teach the pixel decoder, from scratch, to draw what a target embedding names.

    python -m recipes.pixellm_mini.draw --base DIR --cutouts DIR --init FILE --out FILE --minutes 6

A decoder trained from the first step on learns to ignore embeddings that mean nothing yet, and draws whatever
stands out. So it starts anew here, once maps and embeddings agree: maps are computed once per picture, each
name's embedding is what the language model answers it with, and only the decoder learns.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pixellm_model import checkpoint
from pixellm_model.losses import mask_bce, mask_dice
from pixellm_model.model import IMAGE_ID, PixelLM
from pixellm_model.pixel_decoder import PixelDecoder
from pixellm_model.preprocess import patch_mask, process_image
from pixellm_model.prompt import SEG, build_prompt, training_text
from pixellm_model.scenes import SceneRenderer
from pixellm_model.tokenizer import PromptTokenizer
from pixellm_model.training import PackedImage, answer_states, decoder_cells, shrink_mask
from recipes.pixellm_mini.train import chosen_names

BATCH, LR, NOISE = 6, 1e-3, 0.1
NAMES_AT_ONCE = 25
FIRST_SEED = 50_000


@dataclass(frozen=True)
class Drawn:
    """A picture's maps (2, dim, g, g), its names' indices and masks (4g, 4g), and what is not padding."""

    maps: torch.Tensor
    names: list[int]
    masks: list[torch.Tensor]
    inside: torch.Tensor


@torch.no_grad()
def embeddings(
    model: PixelLM, tokenizer: PromptTokenizer, renderer: SceneRenderer, seed: int
) -> torch.Tensor:
    """What the language model answers each name with, (names, 2, dim), on one picture."""
    image = process_image(Image.fromarray(renderer.picture(seed).image), model.config.image_size)
    found = []
    for start in range(0, len(renderer.names), NAMES_AT_ONCE):
        prefix: list[int] = []
        branches = []
        for name in renderer.names[start : start + NAMES_AT_ONCE]:
            prompt = build_prompt(model.config, tokenizer, f"the {name}")
            asked = tokenizer.encode(prompt)
            whole = tokenizer.encode(prompt + training_text(tokenizer, f"{name} is {SEG}."))
            cut = asked.index(IMAGE_ID) + 2
            prefix = asked[:cut]
            branches.append((whole[cut:], len(asked) - cut))
        answers = answer_states(model, [PackedImage(image, prefix, branches, torch.zeros(0))])
        found.append(tokenizer.codebook.fuse(model.target_embeddings(answers.target_states(tokenizer))))
    return torch.cat(found)


@torch.no_grad()
def cache(model: PixelLM, renderer: SceneRenderer, count: int) -> list[Drawn]:
    config = model.config
    assert config.tower is not None
    cached = []
    for start in range(FIRST_SEED, FIRST_SEED + count, 8):
        pictures = [renderer.picture(seed) for seed in range(start, start + 8)]
        images = [process_image(Image.fromarray(p.image), config.image_size) for p in pictures]
        pixels = torch.stack([image.pixel_values for image in images])
        masks = torch.stack(
            [patch_mask(i.resized, config.image_size, config.tower.patch_size) for i in images]
        )
        with torch.autocast("cpu", torch.bfloat16):
            maps = model.project_features(model.model.vision_tower(pixels, masks), masks).maps
        for row, (picture, image) in enumerate(zip(pictures, images, strict=True)):
            together: dict[str, np.ndarray] = {}
            for thing in picture.things:
                together[thing.name] = together.get(thing.name, np.zeros_like(thing.mask)) | thing.mask
            side = 4 * config.grid
            shrunk = [
                shrink_mask(m, image.resized, config.image_size, side).half() for m in together.values()
            ]
            indices = [renderer.names.index(name) for name in together]
            inside = decoder_cells(image.resized, config)
            cached.append(Drawn(maps[:, row].half(), indices, shrunk, inside))
    return cached


def draw(model: PixelLM, cached: list[Drawn], named: torch.Tensor, minutes: float) -> None:
    """Replace and train the decoder of `model`; `named` are embeddings (n, names, 2, dim) to choose from."""
    decoder = PixelDecoder(model.config.decoder_dim, model.config.decoder_mlp_dim)
    for table in (decoder.iou_token, decoder.mask_tokens, decoder.level_embed):
        torch.nn.init.normal_(table.weight, std=0.2)
    model.model.mask_decoder = decoder
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LR, weight_decay=0.01, betas=(0.9, 0.98))
    rng, noise = np.random.default_rng(0), NOISE * named.std()
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        chosen = [cached[index] for index in rng.choice(len(cached), BATCH, replace=False)]
        names = [name for drawn in chosen for name in drawn.names]
        targets = named[torch.from_numpy(rng.integers(len(named), size=len(names))), names]
        owner = torch.tensor([row for row, drawn in enumerate(chosen) for _ in drawn.names])
        masks = torch.stack([mask.float() for drawn in chosen for mask in drawn.masks])
        inside = torch.stack([drawn.inside for drawn in chosen])[owner].float()
        maps = torch.stack([drawn.maps.float() for drawn in chosen], dim=1)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 40) * (0.03 + 0.97 * np.cos(np.pi / 2 * progress))
        with torch.autocast("cpu", torch.bfloat16):
            noisy = targets + noise * torch.randn_like(targets)
            logits, _ = decoder(noisy, maps, model.model.prompt_encoder, owner)
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--base", "--cutouts", "--init", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=6.0)
    args = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    weights = torch.load(args.init, map_location="cpu", weights_only=True)["model"]
    model.load_state_dict(weights, strict=False)
    renderer = SceneRenderer(
        args.cutouts,
        "train",
        model.config.image_size,
        scene=0.75,
        photo=0.1,
        mosaic=0.15,
        names=chosen_names(),
    )
    named = torch.stack([embeddings(model, tokenizer, renderer, seed) for seed in range(3)])
    draw(model, cache(model, renderer, args.pictures), named, args.minutes)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("model.vision_tower.")}
    torch.save({"model": state}, args.out)


if __name__ == "__main__":
    main()
