"""Trains the click head on photos with true masks and simulated clicks.

    python -m recipes.pixellm_mini.clicks --cache DIR ... --out DIR --minutes 60 [--init FILE] [--export FILE]

A robot user clicks on each object a few times, each click where the last prediction is most wrong; the loss
is taken on every prediction. A sample starts from nothing, an imperfect mask or a box, with or without
earlier clicks. An interrupted run continues from its last saved state; `--export` writes the weights' running
mean.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.head import COARSE_STRIDE, ClickHead, PromptBatch
from pixellm_model.clicks.kernel_refiner import CellGraph, KernelRefiner
from pixellm_model.clicks.points import Box
from pixellm_model.clicks.prompt import MASK_STRIDE, ClickPrompt
from pixellm_model.measuring.robot_user import next_click
from pixellm_model.samples import Mask
from recipes.pixellm_mini.click_cache import ClickCache
from recipes.pixellm_mini.click_masks import corrupt_mask
from recipes.pixellm_mini.command import command

PHOTOS_PER_STEP, OBJECTS_PER_PHOTO = 4, 3
MAX_CLICKS, MAX_ROUNDS = 8, 4  # of a sample
MIN_CELLS = 40  # of an object; smaller ones are used only where a photo has none larger
MAX_FOCAL_SCALE = 20  # of the focal loss's normalisation
KERNEL = KernelRefiner(COARSE_STRIDE)
WARM_UP_STEPS, MIN_RATE_SHARE = 100, 0.02  # of the learning rate's schedule
MEAN_DECAY = 0.998  # of the weights' running mean
SAVE_SECONDS = 90
# Probabilities of what a sample starts from and how it goes on.
CORRUPTED_MASK, BOX, EARLIER_CLICKS, FEEDBACK = 0.5, 0.12, 0.4, 0.6
CLICK_WITH_BOX, RANDOM_CLICK, POSITIVE_CLICK, ALL_OF_NAME = 0.5, 0.6, 0.55, 0.08


@dataclass
class Sample:
    """One object as it is being annotated, on a grid of s x s cells of MASK_STRIDE pixels.

    Attributes:
        truth: The object's true mask (s, s).
        photo: Which cells (s, s) show the photo, not padding.
        cells: The photo, as the training-free method encodes it.
        feedback: Whether each prediction becomes the current mask.
        mask: The current mask (s, s), or None.
        clicks: Column, row and sign of the clicks so far.
        box: Edges x0, y0, x1, y1 in cells, or None.
    """

    truth: Mask
    photo: Mask
    cells: CellGraph
    feedback: bool
    mask: Mask | None = None
    clicks: list[tuple[int, int, bool]] = field(default_factory=list)
    box: Box | None = None

    def prompt(self) -> ClickPrompt:
        """The prompt for a refiner, in pixels of the padded square."""
        points = np.array([(x + 0.5, y + 0.5) for x, y, _ in self.clicks]).reshape(-1, 2)
        positive = np.array([click[2] for click in self.clicks], bool)
        x0, y0, x1, y1 = self.box or (0.0, 0.0, 0.0, 0.0)
        box = (x0 * MASK_STRIDE, y0 * MASK_STRIDE, x1 * MASK_STRIDE, y1 * MASK_STRIDE)
        return ClickPrompt(points * MASK_STRIDE, positive, self.mask, box if self.box else None)

    def click(self, predicted: Mask, rng: np.random.Generator) -> None:
        """Add a click where a prediction (s, s) is most wrong, searched at half the resolution."""
        earlier = [(x // 2, y // 2) for x, y, _ in self.clicks]
        click = next_click(
            self.truth[::2, ::2], predicted[::2, ::2], earlier, rng if rng.random() < RANDOM_CLICK else None
        )
        if click is not None and len(self.clicks) < MAX_CLICKS:
            self.clicks.append((2 * click.x, 2 * click.y, click.positive))


def new_sample(
    truth: Mask, others: list[Mask], photo: Mask, cells: CellGraph, rng: np.random.Generator
) -> Sample:
    """Start the annotation of an object.

    Args:
        truth: The object's true mask (s, s).
        others: Masks (s, s) of the photo's other objects.
        photo: Which cells (s, s) show the photo, not padding.
        cells: The photo, as the training-free method encodes it.
        rng: The source of randomness.

    Returns:
        The sample, with at least a click or a box.
    """
    sample = Sample(truth, photo, cells, feedback=bool(rng.random() < FEEDBACK))
    if rng.random() < CORRUPTED_MASK:
        sample.mask = corrupt_mask(truth, others, rng)
    if rng.random() < BOX:
        sample.box = _jittered_box(truth, rng)
    if rng.random() < EARLIER_CLICKS:
        sample.clicks += _earlier_clicks(truth, photo, rng)
    if sample.box is None or rng.random() < CLICK_WITH_BOX:
        sample.click(np.zeros_like(truth) if sample.mask is None else sample.mask & photo, rng)
    return sample


def _jittered_box(truth: Mask, rng: np.random.Generator) -> Box:
    """The object's box in cells, with each edge moved by some percent of its sides."""
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    sides = np.tile([box[2] - box[0], box[3] - box[1]], 2)
    x0, y0, x1, y1 = box + rng.normal(0, 0.04, 4) * sides
    return float(x0), float(y0), float(x1), float(y1)


def _earlier_clicks(truth: Mask, photo: Mask, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """One to three clicks that were made on another prediction: anywhere on the object or around it."""
    clicks = []
    for _ in range(int(rng.integers(1, 4))):
        positive = bool(rng.random() < POSITIVE_CLICK)
        candidates = np.flatnonzero(truth if positive else _surroundings(truth) & photo)
        if len(candidates):
            y, x = divmod(int(rng.choice(candidates)), truth.shape[1])
            clicks.append((x, y, positive))
    return clicks


def _surroundings(truth: Mask) -> Mask:
    """The cells outside the object within its enlarged box."""
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    margin_y, margin_x = (rows[-1] - rows[0]) // 3 + 4, (columns[-1] - columns[0]) // 3 + 4
    box = np.zeros_like(truth)
    y, x = slice(max(0, rows[0] - margin_y), rows[-1] + margin_y), max(0, columns[0] - margin_x)
    box[y, x : columns[-1] + margin_x] = True
    return box & ~truth


def batch_prompts(samples: list[Sample]) -> PromptBatch:
    """The click head's input for some samples."""
    side = len(samples[0].truth)
    most = max(1, *(len(sample.clicks) for sample in samples))
    points, signs = torch.zeros(len(samples), most, 2), torch.zeros(len(samples), most)
    masks, boxes = torch.zeros(len(samples), side, side), torch.zeros(len(samples), 4)
    for row, sample in enumerate(samples):
        for column, (x, y, positive) in enumerate(sample.clicks):
            points[row, column] = (torch.tensor([x, y]) + 0.5) * MASK_STRIDE
            signs[row, column] = 1 if positive else -1
        if sample.mask is not None:
            masks[row] = torch.from_numpy(sample.mask)
        if sample.box is not None:
            boxes[row] = torch.tensor(sample.box) * MASK_STRIDE
    has_mask = torch.tensor([sample.mask is not None for sample in samples])
    has_box = torch.tensor([sample.box is not None for sample in samples])
    scores = [torch.from_numpy(KERNEL.scores(sample.cells, sample.prompt())) for sample in samples]
    return PromptBatch(points, signs, masks, has_mask, boxes, has_box, torch.stack(scores))


def mask_loss(logits: torch.Tensor, truth: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
    """Normalised focal loss (Sofiiuk et al., 2019) plus soft IoU loss, on the photo's cells.

    Args:
        logits: (B, s, s).
        truth: (B, s, s) bool.
        photo: (B, s, s) bool, which cells show the photo.

    Returns:
        The mean over the batch, a scalar.
    """
    margin = torch.where(truth, logits, -logits)
    weight = (1 - margin.detach().sigmoid()) ** 2 * photo
    scale = photo.sum((1, 2), keepdim=True) / (weight.sum((1, 2), keepdim=True) + 1e-6)
    weight = weight * scale.clamp(max=MAX_FOCAL_SCALE)
    focal = -(weight * F.logsigmoid(margin)).sum((1, 2)) / photo.sum((1, 2))
    probability = logits.sigmoid() * photo
    intersection = (probability * truth).sum((1, 2))
    areas = probability.sum((1, 2)) + truth.sum((1, 2))
    iou_loss = 1 - (intersection + 1) / (areas - intersection + 1)
    return (focal + iou_loss).mean()


class Batches:
    """An endless stream of photos, each with some of its objects; larger objects are more frequent."""

    def __init__(self, caches: list[ClickCache], seed: int):
        self.rng = np.random.default_rng(seed)
        self._photos = [(cache, row) for cache in caches for row in range(len(cache))]
        self._cells: dict[int, CellGraph] = {}

    def __iter__(self) -> Iterator[tuple[list[TowerMaps], list[Sample]]]:
        while True:
            chosen = self.rng.choice(len(self._photos), PHOTOS_PER_STEP, replace=False)
            batch_maps, samples = [], []
            for index in map(int, chosen):
                cache, row = self._photos[index]
                cached = cache[row]
                masks, maps = cached.masks, cached.maps
                # The photo stays at the square's left edge only if it is as wide as the square.
                mirrored = bool(self.rng.random() < 0.5) and maps.resized[1] == maps.size
                if index not in self._cells:
                    self._cells[index] = KERNEL.encode(maps)
                cells = self._cells[index]
                if mirrored:
                    masks, maps, cells = masks.flip(-1), _mirrored(maps), cells.mirrored()
                photo = np.zeros(masks.shape[1:], bool)
                height, width = (-(-length // MASK_STRIDE) for length in maps.resized)
                photo[:height, :width] = True
                batch_maps.append(maps)
                samples += self._samples(masks.numpy(), cached.names, photo, cells)
            yield batch_maps, samples

    def _samples(self, masks: Mask, names: list[str], photo: Mask, cells: CellGraph) -> list[Sample]:
        """Samples of OBJECTS_PER_PHOTO of the objects with `masks` (n, s, s)."""
        areas = masks.sum((1, 2))
        usable = np.flatnonzero(areas > MIN_CELLS)
        if not len(usable):
            usable = np.arange(len(masks))
        weights = areas[usable].clip(1) ** 0.3
        samples = []
        for chosen in self.rng.choice(usable, OBJECTS_PER_PHOTO, p=weights / weights.sum()):
            truth = masks[chosen] if areas[chosen] else photo
            if self.rng.random() < ALL_OF_NAME:  # some prompts mean all objects of a name
                same_name = [name == names[chosen] for name in names]
                truth = np.logical_or.reduce(masks[same_name])
            order = self.rng.permutation(len(masks))[:6]
            others = [masks[index] for index in order if index != chosen and areas[index]]
            samples.append(new_sample(truth, others, photo, cells, self.rng))
        return samples


def _mirrored(maps: TowerMaps) -> TowerMaps:
    """The photo with left and right exchanged."""
    second = {stride: values.flip(-1) for stride, values in maps.second.items()}
    return replace(maps, first=maps.first.flip(-1), second=second, pixels=maps.pixels.flip(-1))


def rollout_loss(
    head: ClickHead, maps: list[TowerMaps], samples: list[Sample], rng: np.random.Generator
) -> torch.Tensor:
    """Predict, click and predict again, a random number of times.

    Args:
        head: The click head.
        maps: The features of the photos.
        samples: The same number of samples for each photo, in the photos' order; changed.
        rng: The source of randomness.

    Returns:
        The mean loss of all predictions, a scalar.
    """
    truth = torch.from_numpy(np.stack([sample.truth for sample in samples]))
    photo = torch.from_numpy(np.stack([sample.photo for sample in samples]))
    rounds = int(rng.integers(1, MAX_ROUNDS + 1))
    with torch.autocast("cpu", torch.bfloat16):
        embedding = head.embed(maps).repeated(len(samples) // len(maps))
    total = torch.zeros(())
    for number in range(rounds):
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(embedding, batch_prompts(samples))
        total = total + mask_loss(logits, truth, photo)
        if number + 1 < rounds:
            predicted = (logits.detach() > 0).numpy()
            for sample, mask in zip(samples, predicted, strict=True):
                sample.click(mask & sample.photo, rng)
                if sample.feedback:
                    sample.mask = mask & sample.photo
    return total / rounds


class TrainingState:
    """The head being trained, with all that a run needs to continue.

    Attributes:
        head: The click head.
        mean: The running mean of its weights.
        optimiser: AdamW.
        step: Steps done.
        spent: Seconds spent on them.
    """

    def __init__(self, widths: list[int], learning_rate: float):
        # torch's type hints do not know this argument of Module.to.
        self.head = ClickHead(*widths).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = copy.deepcopy(self.head)
        self.optimiser = torch.optim.AdamW(self.head.parameters(), learning_rate, weight_decay=0.02)
        self.step, self.spent = 0, 0.0

    def begin_with(self, head: ClickHead) -> None:
        """Take over the weights of a trained head."""
        self.head.load_state_dict(head.state_dict())
        self.mean.load_state_dict(head.state_dict())

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        saved = torch.load(path, weights_only=True)
        self.head.load_state_dict(saved["head"])
        self.mean.load_state_dict(saved["mean"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.spent = saved["step"], saved["spent"]

    def save(self, path: Path) -> None:
        """Write the state; an interrupted write leaves the previous file."""
        parts = {"head": self.head, "mean": self.mean, "optimiser": self.optimiser}
        states = {name: part.state_dict() for name, part in parts.items()}
        temporary_path = path.with_suffix(".new")
        torch.save({**states, "step": self.step, "spent": self.spent}, temporary_path)
        temporary_path.replace(path)

    def update(self, loss: torch.Tensor, learning_rate: float) -> None:
        """Take one step and update the running mean."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        with torch.no_grad():
            decay = min(MEAN_DECAY, self.step / (self.step + 10))
            for mean, latest in zip(self.mean.parameters(), self.head.parameters(), strict=True):
                mean.lerp_(latest, 1 - decay)


def train(arguments: argparse.Namespace) -> None:
    """Train for `--minutes`, saving now and then."""
    path, limit = arguments.out / "state.pt", 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    caches = [ClickCache(folder) for folder in arguments.cache]
    maps = caches[0][0].maps
    torch.manual_seed(arguments.seed)
    deep = len(maps.first) + len(maps.second[32])
    state = TrainingState([deep, *(len(maps.second[stride]) for stride in (16, 8, 4))], arguments.lr)
    if path.exists():
        state.load(path)
    elif arguments.init is not None:
        state.begin_with(ClickHead.load(arguments.init))
    batches = iter(Batches(caches, arguments.seed + state.step))
    rng = np.random.default_rng([arguments.seed, state.step])
    last, saved, losses = time.monotonic(), time.monotonic(), []
    while state.spent < limit:
        while arguments.pause is not None and arguments.pause.exists():
            time.sleep(5)
            last = time.monotonic()
        warm_up = min(1, (state.step + 1) / WARM_UP_STEPS)
        learning_rate = arguments.lr * warm_up * max(MIN_RATE_SHARE, 1 - state.spent / limit)
        loss = rollout_loss(state.head, *next(batches), rng)
        state.update(loss, learning_rate)
        losses.append(float(loss.detach()))
        now = time.monotonic()
        state.spent, last = state.spent + now - last, now
        if now - saved > SAVE_SECONDS or state.spent >= limit:
            saved = now
            state.save(path)
            progress = {"step": state.step, "minutes": round(state.spent / 60, 1)}
            print(json.dumps({**progress, "loss": round(np.mean(losses), 4)}), flush=True)
            losses = []


def export(state_path: Path, path: Path) -> None:
    """Write the running mean of a saved state's weights as the file that ships."""
    weights = torch.load(state_path, weights_only=True)["mean"]
    widths = [weights[f"{name}.weight"].shape[1] for name in ("deep.0.0", "middle", "shallow", "edges")]
    head = ClickHead(*widths)
    head.load_state_dict(weights)
    head.save(path)


def main() -> None:
    """Read the arguments, train and export."""
    parser = command(__doc__, "--cache", "--out")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="a trained head to begin with, such as the one that ships")
    parser.add_argument("--pause", type=Path, help="a file: while it exists, training waits")
    parser.add_argument("--export", type=Path, help="where to write the weights afterwards")
    arguments = parser.parse_args()
    train(arguments)
    if arguments.export:
        export(arguments.out / "state.pt", arguments.export)


if __name__ == "__main__":
    main()
