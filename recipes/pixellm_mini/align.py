"""Teach the projectors what the names look like, before the language model joins in.

    python -m recipes.pixellm_mini.align --base DIR --cutouts DIR --out FILE --pictures 3000 --minutes 8

The tower runs once per picture; then only projectors and neck are trained, much faster than the whole
model. `out_mm_projector` and the neck learn maps on which a vector per name tells its cells; those vectors
become what the language model is then taught to answer each name with. `mm_projector` learns to turn a cell
into the input embedding of its thing's name, the words that questions are asked in. Writes weights for
`train --init`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from pixellm_model import checkpoint
from pixellm_model.model import IMAGE_ID, PixelLM
from pixellm_model.preprocess import patch_mask, process_image
from pixellm_model.prompt import SEG, build_prompt, training_text
from pixellm_model.questions import NAMED, listed
from pixellm_model.scenes import Picture, SceneRenderer
from pixellm_model.tokenizer import PromptTokenizer
from pixellm_model.training import PackedImage, answer_states
from recipes.pixellm_mini.train import chosen_names

BACKGROUND_WEIGHT = 0.3
BATCH = 24
VECTOR_LR = 1e-2
SHARPNESS = 15.0  # of the cosine between a cell's token and a name's embedding


def name_embeddings(model: PixelLM, tokenizer: PromptTokenizer, names: list[str]) -> torch.Tensor:
    """Mean input embedding of each name's tokens: (names, D)."""
    table = model.model.embed_tokens.weight.data
    return torch.stack([table[tokenizer.encode(name)[1:]].mean(0) for name in names])


def cell_labels(
    picture: Picture, resized: tuple[int, int], size: int, grid: int, names: list[str]
) -> torch.Tensor:
    """(grid, grid) index of the name that covers most of each cell, 0 for none, -1 outside the image."""
    cover = torch.full((len(names) + 1, grid, grid), 0.0)
    cover[0] = 0.4  # a thing must cover this much of a cell to name it
    for thing in picture.things:
        mask = torch.from_numpy(thing.mask)[None, None].float()
        scaled = F.interpolate(mask, resized, mode="area")
        square = F.pad(scaled, (0, size - resized[1], 0, size - resized[0]))
        index = 1 + names.index(thing.name)
        cover[index] = torch.maximum(cover[index], F.adaptive_avg_pool2d(square, grid)[0, 0])
    labels = cover.argmax(0)
    labels[~patch_mask(resized, size, size // grid)] = -1
    return labels


@torch.inference_mode()
def cache(
    model: PixelLM, renderer: SceneRenderer, names: list[str], count: int
) -> list[tuple[torch.Tensor, ...]]:
    """Tower features (2, g*g, C) in half precision and labels at both grids, for each picture."""
    config = model.config
    assert config.tower is not None
    cached = []
    for start in range(0, count, 8):
        pictures = [renderer.picture(seed) for seed in range(start, min(start + 8, count))]
        images = [process_image(Image.fromarray(p.image), config.image_size) for p in pictures]
        pixels = torch.stack([image.pixel_values for image in images])
        masks = torch.stack(
            [patch_mask(i.resized, config.image_size, config.tower.patch_size) for i in images]
        )
        with torch.autocast("cpu", torch.bfloat16):
            features = torch.stack(model.model.vision_tower(pixels, masks), dim=1)
        for picture, image, feature in zip(pictures, images, features, strict=True):
            sizes = (config.grid, config.token_grid)
            labels = [cell_labels(picture, image.resized, config.image_size, g, names) for g in sizes]
            cached.append((feature.half(), *labels))
    return cached


def align(
    model: PixelLM,
    cached: list[tuple[torch.Tensor, ...]],
    embeddings: torch.Tensor,
    minutes: float,
    lr: float,
) -> torch.Tensor:
    """Train projectors and neck of `model` in place, with `lr` 0 not at all; returns the names' vectors,
    (2, names, dim)."""
    names, dim, grid = len(embeddings), model.config.decoder_dim, model.config.grid
    vectors = nn.Parameter(0.5 * torch.randn(2, names, dim))
    parts = (model.model.mm_projector, model.model.out_mm_projector, model.model.image_feature_neck)
    parameters = [vectors, *(p for part in parts for p in part.parameters())]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [{"params": [vectors], "peak": VECTOR_LR}, {"params": parameters[1:], "peak": lr}], weight_decay=0.01
    )
    weight = torch.ones(names + 1)
    weight[0] = BACKGROUND_WEIGHT
    unit, length = F.normalize(embeddings, dim=-1), embeddings.norm(dim=-1).mean()
    began, step = time.monotonic(), 0
    rng = np.random.default_rng(0)
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        chosen = rng.choice(len(cached), BATCH, replace=False)
        features, fine, coarse = (
            torch.stack(part) for part in zip(*(cached[i] for i in chosen), strict=True)
        )
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
    renderer: SceneRenderer,
    vectors: torch.Tensor,
    minutes: float,
) -> None:
    """Teach the language model in place to answer each name with its vector, whatever the image shows.

    Many short questions share one image, so that this sees far more names a minute than real samples do.
    """
    config, names, rng = model.config, renderer.names, np.random.default_rng(0)
    images = [
        process_image(Image.fromarray(renderer.picture(seed).image), config.image_size) for seed in range(64)
    ]
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
        prefix: list[int] = []
        branches, wanted = [], []
        for pair in asked:
            chosen = pair[: 1 + int(rng.random() < 0.5)]
            nouns = [renderer.nouns[names[index]] for index in chosen]
            words = [str(rng.choice([noun.name, noun.name, *noun.synonyms])) for noun in nouns]
            text = NAMED[int(rng.integers(len(NAMED)))].format(x=listed(words))
            prompt = build_prompt(config, tokenizer, text)
            before = tokenizer.encode(prompt)
            whole = tokenizer.encode(
                prompt + training_text(tokenizer, listed([f"{word} is {SEG}" for word in words]) + ".")
            )
            cut = before.index(IMAGE_ID) + 2
            prefix = before[:cut]
            branches.append((whole[cut:], len(before) - cut))
            wanted += chosen.tolist()
        packed = PackedImage(images[int(rng.integers(len(images)))], prefix, branches, torch.zeros(0))
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--base", "--cutouts", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights to start from, as `train --init` takes")
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=8.0, help="for the maps")
    parser.add_argument("--teach-minutes", type=float, default=5.0, help="for the language model")
    parser.add_argument(
        "--lr", type=float, default=1.5e-3, help="0 keeps the maps and finds their vectors only"
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    if args.init:
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
    cached = cache(model, renderer, renderer.names, args.pictures)
    print(f"{len(cached)} pictures, {len(renderer.names)} names", flush=True)
    embeddings = name_embeddings(model, tokenizer, renderer.names)
    vectors = align(model, cached, embeddings, args.minutes, args.lr)
    teach(model, tokenizer, renderer, vectors, args.teach_minutes)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("model.vision_tower.")}
    torch.save({"model": state}, args.out)


if __name__ == "__main__":
    main()
