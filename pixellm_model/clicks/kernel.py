"""Refinement without training: clicks spread over what looks alike and lies near (kernel regression).

Each click is an observation, 1 or -1, of a smooth function over the photo whose sign is the mask: a Gaussian
process in which cells are related by their tower features, colour and place. Before any click the function is
the current mask or, without one, mildly negative everywhere, and where no click is related to it stays so.
Then it is smoothed, but not across edges (the weights of Grady's random walker, 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import cg

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.wanted import MASK_STRIDE, Wanted

STRIDE = 4  # pixels of the square per cell, alone; the click head is given a coarser one
DIMENSIONS = 16  # of each feature map that are kept
# How much a difference in each part counts, tuned on training photos with simulated clicks. Parts that a
# checkpoint does not have leave their share to the others.
FIRST, SECOND, COLOUR = (0.3, 0.45), {32: 0.3, 16: 0.9, 8: 0.3, 4: 0.07}, 0.15
TOTAL = sum(FIRST) + sum(SECOND.values()) + COLOUR
PLACE = 10.0  # of the distance in squares
BEFORE, BOX_BEFORE = -0.5, 0.1  # the function where nothing is known; in a box
MASK_BEFORE = 0.9  # its size where a mask is given
NOISE, GUESS_NOISE = 0.05, 0.5  # of a click; of what a box suggests
SHARPNESS = 4.0  # logits per unit
CONTRAST = 3.0  # how little is smoothed across a mean difference of neighbours
HELD, CLICK_HELD, GUESS_HELD = 0.001, 5.0, 0.1  # against smoothing: what clicks spread, clicks, guesses
STEPS = 60


@dataclass(frozen=True)
class Cells:
    """A photo as (h * w, d) vectors whose squared distances say how unlike cells are, and the `links` between
    neighbours (h * w, h * w); `shape` is (h, w), of `side` x `side` on the square.
    """

    vectors: np.ndarray
    links: sparse.csr_array
    shape: tuple[int, int]
    side: int

    @property
    def nbytes(self) -> int:
        links = self.links
        return int(self.vectors.nbytes + links.data.nbytes + links.indices.nbytes + links.indptr.nbytes)

    def mirrored(self) -> Cells:
        """The photo with left and right exchanged."""
        height, width = self.shape
        order = np.arange(height * width).reshape(height, width)[:, ::-1].ravel()
        return Cells(self.vectors[order], self.links[order][:, order], self.shape, self.side)


class KernelRefiner:
    """The method for checkpoints without a click head; `stride` is the pixels of the square per cell."""

    def __init__(self, stride: int = STRIDE):
        self.stride = stride

    def know(self, maps: TowerMaps) -> Cells:
        """What is kept of a photo."""
        side = maps.size // self.stride
        height, width = (min(side, -(-length // self.stride)) for length in maps.resized)
        shape = (height, width)
        half = len(maps.first) // len(FIRST)
        parts = [(FIRST[0], maps.first[:half]), (FIRST[1], maps.first[half:])]
        parts += [(SECOND[stride], one) for stride, one in maps.second.items()]
        colour = F.avg_pool2d(maps.pixels[None], maps.pixels.shape[-1] // side)[0]
        parts.append((COLOUR, colour))
        share = TOTAL / sum(weight for weight, _ in parts)
        vectors = [(weight * share) ** 0.5 * _principal(one, side, shape) for weight, one in parts]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        features = torch.cat(vectors).cpu().numpy()
        links = _links([features, colour[:, :height, :width].cpu().numpy()])
        place = (PLACE**0.5 * torch.stack([rows, columns]) / side).numpy()
        together = np.concatenate([features, place]).reshape(-1, height * width).T
        return Cells(np.ascontiguousarray(together), links, shape, side)

    def logits(self, known: Cells, wanted: Wanted) -> np.ndarray:
        """The object's logits (S/2, S/2) float32."""
        found = torch.from_numpy(self.belief(known, wanted))
        scale = float(self.stride // MASK_STRIDE)
        return SHARPNESS * F.interpolate(found[None, None], scale_factor=scale, mode="bilinear")[0, 0].numpy()

    def belief(self, known: Cells, wanted: Wanted) -> np.ndarray:
        """The function on the whole square (side, side) float32, about -1 to 1; the mask is where it is
        positive.
        """
        height, width = known.shape
        before = np.full((height, width), BEFORE, np.float32)
        if wanted.mask is not None:
            step = self.stride // MASK_STRIDE
            covered = wanted.mask[: height * step, : width * step]
            covered = covered.reshape(height, step, width, step).mean((1, 3))
            before = (MASK_BEFORE * (2 * covered - 1)).astype(np.float32)
        elif wanted.box is not None:
            x0, y0, x1, y1 = (edge / self.stride for edge in wanted.box)
            rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
            inside = np.outer((rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1))
            before[inside] = BOX_BEFORE
        points, signs, noise = _observations(wanted)
        if len(points):
            at = np.minimum((points / self.stride).astype(int), [width - 1, height - 1])
            seeds = at[:, 1] * width + at[:, 0]
            related = _related(known.vectors, seeds)  # (h * w, n)
            pull = np.linalg.solve(related[seeds] + np.diag(noise), signs - before.ravel()[seeds])
            spread = before.ravel() + related @ pull.astype(np.float32)
            before = _smooth(known.links, spread, seeds, signs, noise).reshape(height, width)
        square = np.full((known.side, known.side), -1, np.float32)
        square[:height, :width] = before
        return square


def _related(vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    chosen = vectors[seeds]
    squared = (vectors**2).sum(1)[:, None] + (chosen**2).sum(1) - 2 * vectors @ chosen.T
    return np.exp(-squared.clip(0) / 2)


def _links(parts: list[np.ndarray]) -> sparse.csr_array:
    """How alike neighbours are in all of `parts`, (d, h, w) each, 0..1."""
    height, width = parts[0].shape[1:]
    index = np.arange(height * width).reshape(height, width)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    unlike = np.zeros(len(first))
    for one in parts:
        steps = (one[:, :, 1:] - one[:, :, :-1], one[:, 1:] - one[:, :-1])
        squared = np.concatenate([(step**2).sum(0).ravel() for step in steps])
        unlike += squared / (squared.mean() + 1e-9) / len(parts)
    alike = (np.exp(-CONTRAST * unlike) + 1e-3).astype(np.float32)
    half = sparse.coo_array((alike, (first, second)), (index.size, index.size)).tocsr()
    return (half + half.T).tocsr()


def _smooth(
    links: sparse.csr_array, spread: np.ndarray, seeds: np.ndarray, signs: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """The function (n,) that is near `spread`, at sure clicks near their sign, and changes little between
    linked cells.
    """
    held, target = np.full(len(spread), HELD), spread.astype(np.float64)
    sure = noise <= NOISE
    held[seeds] = np.where(sure, CLICK_HELD, GUESS_HELD)
    target[seeds] = signs
    diagonal = links.sum(1) + held
    matrix = sparse.diags_array(diagonal) - links
    smooth, _ = cg(
        matrix, held * target, x0=target, rtol=1e-3, maxiter=STEPS, M=sparse.diags_array(1 / diagonal)
    )
    return smooth.astype(np.float32)


def _observations(wanted: Wanted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (n, 2) in pixels of the square, what is seen there, and how unsure that is: the clicks and, for
    a box without a mask, its middle as object and its surroundings as none.
    """
    points, signs = wanted.points, np.where(wanted.positive, 1.0, -1.0)
    noise = np.full(len(points), NOISE)
    if wanted.box is None or wanted.mask is not None:
        return points, signs, noise
    x0, y0, x1, y1 = wanted.box
    part = np.array([[0.5, 0.5], [0.3, 0.5], [0.7, 0.5], [0.5, 0.3], [0.5, 0.7]])
    edge = np.linspace(0, 1, 5)
    rim = np.concatenate(
        [np.stack([edge, np.full(5, end)], 1) for end in (-0.06, 1.06)]
        + [np.stack([np.full(5, end), edge], 1) for end in (-0.06, 1.06)]
    )
    guessed = np.concatenate([part, rim]) * [x1 - x0, y1 - y0] + [x0, y0]
    return (
        np.concatenate([points, guessed.clip(0)]),
        np.concatenate([signs, np.ones(len(part)), -np.ones(len(rim))]),
        np.concatenate([noise, np.full(len(guessed), GUESS_NOISE)]),
    )


def _principal(one: torch.Tensor, side: int, shape: tuple[int, int]) -> torch.Tensor:
    """The main directions of a map (C, g, g) at the cells: (k, h, w), of mean squared length 1."""
    grid = one.shape[-1]
    rows, columns = (min(grid, max(1, round(length * grid / side))) for length in shape)
    inside = one[:, :rows, :columns].flatten(1).T.float()  # (n, C)
    mean = inside.mean(0)
    _, directions = torch.linalg.eigh((inside - mean).T @ (inside - mean))
    reduced = (one.flatten(1).T.float() - mean) @ directions[:, -DIMENSIONS:]
    length = ((inside - mean) @ directions[:, -DIMENSIONS:]).pow(2).sum(1).mean().sqrt()
    reduced = (reduced / (length + 1e-3)).T.unflatten(1, (grid, grid))
    whole = F.interpolate(reduced[None], (side, side), mode="bilinear")
    return whole[0, :, : shape[0], : shape[1]]
