"""Teach the pyramid what the names look like on photos and scenes, before the language model joins in.

    python -m recipes.pixellm_mini.ground --base DIR --cutouts DIR --cache DIR ... --out DIR --minutes 40

Each name has an embedding of its own here, which begins as what the language model answers the name with;
with the pyramid it learns to say where in a picture, and whether at all, the name is. `teach` has the
language model answer with these afterwards. Run again, it goes on where it stopped. Writes `training.pt` (the
mean of the weights along the way, and under "table" the names' embeddings).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pixellm_model import checkpoint
from pixellm_model.learning.packing import decoder_cells
from pixellm_model.model import PixelLM
from pixellm_model.pyramid import PyramidDecoder
from pixellm_model.synthetic.nouns import Nouns
from recipes.pixellm_mini.align import answers
from recipes.pixellm_mini.by_the_clock import learned_weights
from recipes.pixellm_mini.cached import Cache
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.pause import Clock
from recipes.pixellm_mini.state import load_state

BATCH, LR, TABLE_LR, DECAY = 4, 1e-3, 3e-3, 0.05
MOST_PRESENT, MISSING = 8, 8  # names drawn a picture
MEAN_OVER = 400  # steps that the mean of the weights reaches back
FINE = 0.45  # of the steps take the fine level too, which costs as much as the others together
MIXED, DROPPED = 0.15, 0.05  # pictures with a part of another one, channels left out
WEIGHTS = {"bce": 2.0, "dice": 1.5, "presence": 0.4, "missing": 1.0, "top": 0.15}  # of the losses
TOP_SHARE = 0.005  # of the cells: those where a missing name is most
MISSED = 60  # names that count as missing in a picture
SHOWN = 30  # names that are told of for each that counts in the mean of the presence loss
SAVE_EVERY = 120.0  # seconds


@dataclass
class Shown:
    """A picture to learn from.

    `features` are as cached, `masks` those of names (4g, 4g) in 0..1, `missing` the names that surely are,
    and `inside` the cells of the picture.
    """

    features: list[torch.Tensor]
    masks: dict[int, torch.Tensor]
    missing: np.ndarray
    inside: torch.Tensor


class Pictures:
    """Cached pictures, flipped and mixed, by number."""

    def __init__(self, cache: Cache, nouns: Nouns, model: PixelLM):
        self.cache, self.config = cache, model.config
        self.index = {name: number for number, name in enumerate(cache.names)}
        names = cache.names
        self.related = np.array([[nouns.related(one, other) for other in names] for one in names])

    def whole(self, number: int, flip: bool) -> Shown:
        """A picture as it is, or flipped."""
        picture = self.cache[number]
        masks: dict[int, torch.Tensor] = {}
        for name, mask in zip(picture.names, picture.masks.float() / 255, strict=True):
            index = self.index[name]
            masks[index] = torch.maximum(masks.get(index, torch.zeros_like(mask)), mask)
        missing = np.asarray(~self.related[:, list(masks)].any(axis=1))
        for name in picture.backdrop:
            if name in self.index:
                missing[self.index[name]] = False
        features = list(picture.features)
        inside = decoder_cells(picture.resized, self.config).float()
        if flip:  # the towers are nearly the same on a flipped picture
            grid = self.config.grid
            features = [
                f.unflatten(0, (grid, grid)).flip(1).flatten(0, 1) if f.ndim == 2 else f.flip(-1)
                for f in features
            ]
            masks = {name: mask.flip(-1) for name, mask in masks.items()}
            inside = inside.flip(-1)
        return Shown(features, masks, missing, inside)

    def mixed(self, one: Shown, other: Shown, rng: np.random.Generator) -> Shown:
        """One picture with a part of the other in it; names that either does not know of are left out."""
        grid = self.config.grid
        tall, wide = (int(rng.integers(grid // 3, 3 * grid // 4)) for _ in range(2))
        top, left = int(rng.integers(grid - tall + 1)), int(rng.integers(grid - wide + 1))

        def place(scale: int) -> tuple[slice, slice]:
            return (
                slice(scale * top, scale * (top + tall)),
                slice(scale * left, scale * (left + wide)),
            )

        features = []
        for mine, theirs in zip(one.features, other.features, strict=True):
            new = mine.clone()
            if new.ndim == 2:
                new.view(grid, grid, -1)[place(1)] = theirs.view(grid, grid, -1)[place(1)]
            else:
                rows, columns = place(new.shape[-1] // grid)
                new[:, rows, columns] = theirs[:, rows, columns]
            features.append(new)
        rows, columns = place(4)
        inside = one.inside.clone()
        inside[rows, columns] = other.inside[rows, columns]
        masks: dict[int, torch.Tensor] = {}
        missing = one.missing & other.missing
        empty = torch.zeros_like(inside)
        for name in {*one.masks, *other.masks}:
            known = (name in one.masks or one.missing[name]) and (name in other.masks or other.missing[name])
            mask = one.masks.get(name, empty).clone()
            mask[rows, columns] = other.masks.get(name, empty)[rows, columns]
            if known and mask.sum() >= 4:
                masks[name] = mask
        return Shown(features, masks, missing, inside)

    def drawn(self, rng: np.random.Generator, order: Order) -> Shown:
        """The next picture to learn from."""
        shown = self.whole(order.next(), rng.random() < 0.5)
        if rng.random() < MIXED:
            shown = self.mixed(shown, self.whole(order.next(), rng.random() < 0.5), rng)
        return shown


class Order:
    """Endless shuffled numbers of the pictures; those with rare names come more often."""

    def __init__(self, cache: Cache, rng: np.random.Generator):
        counts: dict[str, int] = {}
        for record in cache.records:
            for name in set(record["names"]):
                counts[name] = counts.get(name, 0) + 1
        rarest = [min((counts[n] for n in record["names"]), default=400) for record in cache.records]
        weights = np.array(rarest, float) ** -0.35
        self.share, self.rng = weights / weights.sum(), rng
        self.left: list[int] = []

    def next(self) -> int:
        """The next picture's number."""
        if not self.left:
            self.left = self.rng.choice(len(self.share), len(self.share), p=self.share).tolist()
        return int(self.left.pop())


def losses(
    model: PixelLM, table: torch.Tensor, shown: list[Shown], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The losses of a step, by name; see WEIGHTS."""
    decoder = model.model.mask_decoder
    assert isinstance(decoder, PyramidDecoder)
    count, fine = len(table), rng.random() < FINE
    features = [
        torch.stack(level).to(torch.bfloat16)
        for level in zip(*(one.features[: None if fine else -1] for one in shown), strict=True)
    ]
    for number, level in enumerate(features):
        channel = 2 if level.ndim == 3 else 1
        keep = torch.rand(len(shown), level.shape[channel]) >= DROPPED
        shape = [len(shown), 1, -1] if level.ndim == 3 else [len(shown), -1, 1, 1]
        features[number] = level * keep.view(shape).to(level.dtype)
    with torch.autocast("cpu", torch.bfloat16):
        levels = model.pyramid_levels(features)
        everyone = table.repeat(len(shown), 1, 1)
        of = torch.arange(len(shown)).repeat_interleave(count)
        present = decoder.presence(everyone, levels[0], of).view(len(shown), count)
    told = torch.zeros(len(shown), count)
    truth = torch.zeros(len(shown), count)
    for row, one in enumerate(shown):
        # As if as many were missing everywhere: what is complete is not to make names seem rarer.
        told[row, torch.from_numpy(one.missing)] = min(1.0, MISSED / max(1, int(one.missing.sum())))
        truth[row, list(one.masks)] = 1
    told = torch.maximum(told, truth)
    presence = F.binary_cross_entropy_with_logits(present, truth, reduction="none") * told
    found: dict[str, torch.Tensor] = {"presence": presence.sum() / (truth.sum() + told.sum() / SHOWN)}
    owner, names, masks = [], [], []
    for row, one in enumerate(shown):
        here = [int(name) for name in rng.permutation(list(one.masks))[:MOST_PRESENT]]
        absent = np.flatnonzero(one.missing)
        chosen: list[int] = []
        if len(absent):
            likely = absent[np.argsort(-present[row].detach().numpy()[absent])[: 2 * MISSING]]
            chosen = [int(n) for n in rng.permutation(likely)[: MISSING - 2]]
            chosen += [int(n) for n in rng.choice(absent, 2)]
        names += here + chosen
        owner += [row] * (len(here) + len(chosen))
        masks += [one.masks[name] for name in here] + [torch.zeros_like(one.inside)] * len(chosen)
    at, target = torch.tensor(owner), torch.stack(masks)
    valid = torch.stack([one.inside for one in shown])
    if not fine:
        target, valid = F.avg_pool2d(target, 2), F.max_pool2d(valid, 2)
    valid = valid[at]
    with torch.autocast("cpu", torch.bfloat16):
        logits = decoder.fine_logits(table[names], levels, at).float()
    there = target.flatten(1).any(1)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * valid
    area = valid.sum((1, 2)).clamp_min(1)
    found["bce"] = (bce.sum((1, 2)) / area)[there].mean()
    p, t = logits.sigmoid() * valid, target * valid  # (N, h, w)
    dice = 1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)
    found["dice"] = dice[there].mean()
    if (~there).any():
        empty = bce[~there].flatten(1)
        found["missing"] = empty.mean()
        found["top"] = empty.topk(max(1, int(TOP_SHARE * empty.shape[1])), dim=1).values.mean()
    return found


def ground(
    model: PixelLM,
    pictures: Pictures,
    table: nn.Parameter,
    minutes: float,
    out: Path,
    seed: int,
    fixed_names: bool = False,
) -> None:
    """Train pyramid and `table` (names, 2, dim) in place; with `fixed_names` the pyramid alone."""
    decoder = model.model.mask_decoder
    assert isinstance(decoder, PyramidDecoder)
    pyramid, choose = [*decoder.pyramid.parameters()], [*decoder.choose.parameters()]
    learned = [*pyramid, *choose, decoder.weights, table]
    for parameter in learned:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [
            {"params": pyramid, "peak": LR, "weight_decay": DECAY},
            {"params": [decoder.weights], "peak": LR, "weight_decay": 0.0},
            {"params": choose, "peak": 0.0 if fixed_names else LR, "weight_decay": DECAY},
            {"params": [table], "peak": 0.0 if fixed_names else TABLE_LR, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    mean = [p.detach().clone() for p in learned]
    step, spent, file = 0, 0.0, out / "running.pt"
    if file.exists():
        state = torch.load(file, map_location="cpu", weights_only=True)
        # Names that are fixed are those that were written to go on from, the mean.
        names_at = len(pyramid) if fixed_names else len(learned)
        now = [*state["learned"][:names_at], *state["mean"][names_at:]]
        for parameter, value in zip(learned, now, strict=True):
            parameter.data.copy_(value)
        mean, step, spent = state["mean"], state["step"], state["spent"]
        peaks = [group["peak"] for group in optimizer.param_groups]
        if len(state["optimizer"]["param_groups"]) == len(peaks):
            optimizer.load_state_dict(state["optimizer"])
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak
    rng = np.random.default_rng([seed, step])
    torch.manual_seed(seed + step)
    order = Order(pictures.cache, rng)
    clock, saved, began = Clock(spent), time.monotonic(), step
    averages: dict[str, float] = {}
    while True:
        progress = clock.spent() / (60 * minutes)
        for group in optimizer.param_groups:
            falling = 0.02 + 0.98 * float(np.cos(np.pi / 2 * min(1, progress)))
            group["lr"] = group["peak"] * min(1, (step - began + 1) / 60) * falling
        found = losses(model, table, [pictures.drawn(rng, order) for _ in range(BATCH)], rng)
        weighted = [WEIGHTS[key] * value for key, value in found.items()]
        total = torch.stack(weighted).sum()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        step += 1
        share = 1 / min(step, MEAN_OVER)
        for kept, parameter in zip(mean, learned, strict=True):
            kept.lerp_(parameter.detach(), share)
        for key, value in found.items():
            averages[key] = 0.98 * averages.get(key, value.item()) + 0.02 * value.item()
        if step % 50 == 0:
            said = " ".join(f"{key} {value:.4f}" for key, value in averages.items())
            print(
                f"{step} {clock.spent() / 60:.1f} min {said} weights {decoder.weights.tolist()}", flush=True
            )
        done = progress >= 1
        if done or time.monotonic() - saved > SAVE_EVERY:
            _save(out, model, learned, mean, optimizer, step, clock.spent(), pictures.cache.names)
            saved = time.monotonic()
        if done:
            break


def _save(
    out: Path,
    model: PixelLM,
    learned: list[Any],
    mean: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    spent: float,
    names: list[str],
) -> None:
    """The running state, and the mean as weights to go on from; written aside and renamed."""
    out.mkdir(parents=True, exist_ok=True)
    now = [p.detach().clone() for p in learned]
    state = {"learned": now, "mean": mean, "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    torch.save(state, out / "running.partial")
    (out / "running.partial").replace(out / "running.pt")
    for parameter, value in zip(learned, mean, strict=True):
        parameter.data.copy_(value)
    weights = {"model": learned_weights(model), "table": learned[-1].data, "names": names, "step": step}
    torch.save(weights, out / "training.partial")
    (out / "training.partial").replace(out / "training.pt")
    for parameter, value in zip(learned, now, strict=True):
        parameter.data.copy_(value)


def main() -> None:
    """Run the command line."""
    parser = command(__doc__, "--base", "--cutouts", "--cache", "--out")
    parser.add_argument("--init", type=Path, help="a state to start from; its table too, if it has one")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed-names", action="store_true", help="only the pyramid learns from here on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    load_state(model, args.init)
    cache = Cache(*args.cache)
    saved = torch.load(args.init, map_location="cpu", weights_only=True) if args.init else {}
    if (args.out / "running.pt").exists():
        start = torch.zeros(len(cache.names), 2, model.config.decoder_dim)  # the running state has its own
    elif "table" in saved:
        start = saved["table"]
    else:
        start = answers(model, tokenizer, cache).transpose(0, 1).contiguous()  # (names, 2, dim)
    table = nn.Parameter(start.float().clone())
    pictures = Pictures(cache, Nouns(args.cutouts / "vocabulary.json"), model)
    ground(model, pictures, table, args.minutes, args.out, args.seed, args.fixed_names)


if __name__ == "__main__":
    main()
