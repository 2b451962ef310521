"""Trains the click head on photos with true masks and simulated clicks.

    python -m recipes.pixellm_mini.clicks --cache DIR ... --out DIR --minutes 60 [--export FILE]

Each object is clicked on a few times, each click where the prediction before was most wrong; every prediction
is learned from. The start is nothing, an imperfect mask or a box, with or without earlier clicks. A run that
was stopped goes on where it was; `--export` writes the weights' running mean.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.head import COARSE, ClickHead, Prompts
from pixellm_model.clicks.kernel import Cells, KernelRefiner
from pixellm_model.clicks.wanted import MASK_STRIDE, Wanted
from pixellm_model.measuring.robot_user import next_click
from recipes.pixellm_mini.click_cache import ClickCache
from recipes.pixellm_mini.click_masks import imperfect
from recipes.pixellm_mini.command import command

PHOTOS, OBJECTS = 4, 3  # a step; objects of each photo
POINTS = 8  # clicks of a sample at most
KERNEL = KernelRefiner(COARSE)
DECAY = 0.998  # of the running mean of the weights
SAVE_SECONDS = 90


@dataclass
class Sample:
    """One object in the making: its mask `truth` (s, s), the current mask `given`, whether each prediction
    becomes the next `given`, the clicks so far and the box, in cells of the masks. `valid` is where the photo
    is, `cells` what the training-free method knows of it.
    """

    truth: np.ndarray
    valid: np.ndarray
    cells: Cells
    given: np.ndarray | None
    follows: bool
    clicks: list[tuple[int, int, bool]]
    box: tuple[float, float, float, float] | None

    def wanted(self) -> Wanted:
        """What a refiner is asked for."""
        points = np.array([(x + 0.5, y + 0.5) for x, y, _ in self.clicks]).reshape(-1, 2)
        positive = np.array([click[2] for click in self.clicks], bool)
        x0, y0, x1, y1 = self.box or (0.0, 0.0, 0.0, 0.0)
        box = (x0 * MASK_STRIDE, y0 * MASK_STRIDE, x1 * MASK_STRIDE, y1 * MASK_STRIDE)
        return Wanted(points * MASK_STRIDE, positive, self.given, box if self.box else None)

    def click(self, predicted: np.ndarray, rng: np.random.Generator) -> None:
        """Where `predicted` is most wrong, found at half the masks' resolution."""
        made = [(x // 2, y // 2) for x, y, _ in self.clicks]
        found = next_click(
            self.truth[::2, ::2], predicted[::2, ::2], made, rng if rng.random() < 0.6 else None
        )
        if found is not None and len(self.clicks) < POINTS:
            self.clicks.append((2 * found.x, 2 * found.y, found.positive))


def start(
    truth: np.ndarray, others: list[np.ndarray], valid: np.ndarray, cells: Cells, rng: np.random.Generator
) -> Sample:
    """How the annotation of an object begins."""
    sample = Sample(truth, valid, cells, None, bool(rng.random() < 0.6), [], None)
    kind = rng.random()
    if kind < 0.5:
        sample.given = imperfect(truth, others, rng)
    if rng.random() < 0.12:
        rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        spread = np.tile([box[2] - box[0], box[3] - box[1]], 2)
        x0, y0, x1, y1 = box + rng.normal(0, 0.04, 4) * spread
        sample.box = (float(x0), float(y0), float(x1), float(y1))
    if rng.random() < 0.4:  # clicks made before, on a prediction that is not known
        for _ in range(int(rng.integers(1, 4))):
            positive = bool(rng.random() < 0.55)
            around = truth if positive else _around(truth) & valid
            places = np.flatnonzero(around)
            if len(places):
                y, x = divmod(int(rng.choice(places)), truth.shape[1])
                sample.clicks.append((x, y, positive))
    if sample.box is None or rng.random() < 0.5:
        sample.click(np.zeros_like(truth) if sample.given is None else sample.given & valid, rng)
    return sample


def _around(truth: np.ndarray) -> np.ndarray:
    """Outside the object within its box, enlarged."""
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    tall, wide = (rows[-1] - rows[0]) // 3 + 4, (columns[-1] - columns[0]) // 3 + 4
    near = np.zeros_like(truth)
    near[max(0, rows[0] - tall) : rows[-1] + tall, max(0, columns[0] - wide) : columns[-1] + wide] = True
    return near & ~truth


def prompts_of(samples: list[Sample]) -> Prompts:
    side = len(samples[0].truth)
    most = max(1, *(len(sample.clicks) for sample in samples))
    points, signs = torch.zeros(len(samples), most, 2), torch.zeros(len(samples), most)
    masks, boxes = torch.zeros(len(samples), side, side), torch.zeros(len(samples), 4)
    for row, sample in enumerate(samples):
        for at, (x, y, positive) in enumerate(sample.clicks):
            points[row, at] = (torch.tensor([x, y]) + 0.5) * MASK_STRIDE
            signs[row, at] = 1 if positive else -1
        if sample.given is not None:
            masks[row] = torch.from_numpy(sample.given)
        if sample.box is not None:
            boxes[row] = torch.tensor(sample.box) * MASK_STRIDE
    has_mask = torch.tensor([sample.given is not None for sample in samples])
    has_box = torch.tensor([sample.box is not None for sample in samples])
    beliefs = [torch.from_numpy(KERNEL.belief(sample.cells, sample.wanted())) for sample in samples]
    return Prompts(points, signs, masks, has_mask, boxes, has_box, torch.stack(beliefs))


def loss_of(logits: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Normalised focal loss and soft intersection over union, inside the photo."""
    sure = torch.where(truth, logits, -logits)
    weight = (1 - sure.detach().sigmoid()) ** 2 * valid
    weight = weight * (valid.sum((1, 2), keepdim=True) / (weight.sum((1, 2), keepdim=True) + 1e-6)).clamp(
        max=20
    )
    focal = -(weight * F.logsigmoid(sure)).sum((1, 2)) / valid.sum((1, 2))
    likely = logits.sigmoid() * valid
    both, sizes = (likely * truth).sum((1, 2)), likely.sum((1, 2)) + truth.sum((1, 2))
    overlap = 1 - (both + 1) / (sizes - both + 1)
    return (focal + overlap).mean()


class Batches:
    """An endless stream of photos, each with some of its objects; larger objects more often."""

    def __init__(self, caches: list[ClickCache], seed: int):
        self.caches, self.rng = caches, np.random.default_rng(seed)
        self._cells: dict[int, Cells] = {}
        self.places = [(cache, row) for cache in caches for row in range(len(cache))]

    def __iter__(self) -> Iterator[tuple[list[TowerMaps], list[Sample]]]:
        while True:
            chosen = [int(k) for k in self.rng.choice(len(self.places), PHOTOS, replace=False)]
            maps, samples = [], []
            for number in chosen:
                cache, row = self.places[number]
                photo = cache[row]
                mirrored = bool(self.rng.random() < 0.5) and photo.maps.resized[1] == photo.maps.size
                masks, towers = photo.masks, photo.maps
                if number not in self._cells:
                    self._cells[number] = KERNEL.know(towers)
                cells = self._cells[number]
                if mirrored:
                    masks, towers, cells = masks.flip(-1), _mirrored(towers), cells.mirrored()
                valid = np.zeros(masks.shape[1:], bool)
                height, width = (-(-side // MASK_STRIDE) for side in towers.resized)
                valid[:height, :width] = True
                maps.append(towers)
                samples += self._samples(masks.numpy(), photo.names, valid, cells)
            yield maps, samples

    def _samples(self, masks: np.ndarray, names: list[str], valid: np.ndarray, cells: Cells) -> list[Sample]:
        areas = masks.sum((1, 2))
        usable = np.flatnonzero(areas > 40)
        if not len(usable):
            usable = np.arange(len(masks))
        share = areas[usable].clip(1) ** 0.3
        picked = self.rng.choice(usable, OBJECTS, p=share / share.sum())
        samples = []
        for at in picked:
            truth = masks[at] if areas[at] else valid
            if self.rng.random() < 0.08:  # all of a name, as some prompts mean it
                truth = np.logical_or.reduce(
                    [m for m, name in zip(masks, names, strict=True) if name == names[at]]
                )
            others = [masks[k] for k in self.rng.permutation(len(masks))[:6] if k != at and areas[k]]
            samples.append(start(truth, others, valid, cells, self.rng))
        return samples


def _mirrored(maps: TowerMaps) -> TowerMaps:
    second = {stride: one.flip(-1) for stride, one in maps.second.items()}
    return replace(maps, first=maps.first.flip(-1), second=second, pixels=maps.pixels.flip(-1))


def learn(
    head: ClickHead, maps: list[TowerMaps], samples: list[Sample], rng: np.random.Generator
) -> torch.Tensor:
    """The loss of a few rounds of clicks."""
    truth = torch.from_numpy(np.stack([sample.truth for sample in samples]))
    valid = torch.from_numpy(np.stack([sample.valid for sample in samples]))
    rounds = int(rng.integers(1, 5))
    with torch.autocast("cpu", torch.bfloat16):
        embedded = head.embed(maps).repeated(len(samples) // len(maps))
    total = torch.zeros(())
    for number in range(rounds):
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(embedded, prompts_of(samples))
        total = total + loss_of(logits, truth, valid)
        if number + 1 < rounds:
            predicted = (logits.detach() > 0).numpy()
            for sample, mask in zip(samples, predicted, strict=True):
                sample.click(mask & sample.valid, rng)
                if sample.follows:
                    sample.given = mask & sample.valid
    return total / rounds


def train(args: argparse.Namespace) -> None:
    state_path = args.out / "state.pt"
    args.out.mkdir(parents=True, exist_ok=True)
    caches = [ClickCache(folder) for folder in args.cache]
    maps = caches[0][0].maps
    widths = (len(maps.first) + len(maps.second[32]), *(len(maps.second[stride]) for stride in (16, 8, 4)))
    torch.manual_seed(args.seed)
    # torch's type hints do not know this argument of Module.to.
    head = ClickHead(*widths).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(head.parameters(), args.lr, weight_decay=0.02)
    mean, step, spent = copy.deepcopy(head), 0, 0.0
    if state_path.exists():
        kept = torch.load(state_path, weights_only=True)
        head.load_state_dict(kept["head"])
        mean.load_state_dict(kept["mean"])
        optimiser.load_state_dict(kept["optimiser"])
        step, spent = kept["step"], kept["spent"]
    batches = iter(Batches(caches, args.seed + step))
    rng = np.random.default_rng([args.seed, step])
    last, saved, losses = time.monotonic(), time.monotonic(), []
    while spent < 60 * args.minutes:
        while args.pause is not None and args.pause.exists():
            time.sleep(5)
            last = time.monotonic()
        part = spent / (60 * args.minutes)
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 100) * max(0.02, 1 - part)
        loss = learn(head, *next(batches), rng)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            keep = min(DECAY, step / (step + 10))
            for old, new in zip(mean.parameters(), head.parameters(), strict=True):
                old.lerp_(new, 1 - keep)
        losses.append(float(loss.detach()))
        now = time.monotonic()
        spent, last = spent + now - last, now
        if now - saved > SAVE_SECONDS or spent >= 60 * args.minutes:
            saved = now
            kept = {"head": head.state_dict(), "mean": mean.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**kept, "step": step, "spent": spent}, state_path.with_suffix(".new"))
            state_path.with_suffix(".new").replace(state_path)
            print(
                json.dumps(
                    {"step": step, "minutes": round(spent / 60, 1), "loss": round(np.mean(losses), 4)}
                ),
                flush=True,
            )
            losses = []


def export(state: Path, path: Path) -> None:
    """Write the running mean of a state's weights as the file that ships."""
    kept = torch.load(state, weights_only=True)["mean"]
    widths = [kept[f"{name}.weight"].shape[1] for name in ("deep.0.0", "middle", "shallow", "edges")]
    head = ClickHead(*widths)
    head.load_state_dict(kept)
    head.save(path)


def main() -> None:
    parser = command(__doc__, "--cache", "--out")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=Path, help="a file: while it exists, training waits")
    parser.add_argument("--export", type=Path, help="where to write the weights afterwards")
    args = parser.parse_args()
    train(args)
    if args.export:
        export(args.out / "state.pt", args.export)


if __name__ == "__main__":
    main()
