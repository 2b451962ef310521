"""The baseline of `benchmarks.clicks`: a random walker on colour alone (Grady, "Random walks for image
segmentation", 2006), with the photo's rim as background and a given mask as prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import cg

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.wanted import Wanted

STRIDE = 4  # pixels of the square per cell
CONTRAST = 3.0  # how unwillingly a walker crosses a mean difference of colour
PRIOR, RIM = 0.02, 0.3  # weights of the given mask and of the rim
STEPS = 80


@dataclass(frozen=True)
class ColourGraph:
    """Links (n, n) between neighbours of a photo of `shape` cells, of `side` x `side` on the square."""

    links: sparse.csr_matrix
    shape: tuple[int, int]
    side: int

    @property
    def nbytes(self) -> int:
        return int(self.links.data.nbytes + self.links.indices.nbytes + self.links.indptr.nbytes)


class ColourWalker:
    """A method for `Refiner`."""

    def know(self, maps: TowerMaps) -> ColourGraph:
        side = maps.size // STRIDE
        height, width = (min(side, -(-length // STRIDE)) for length in maps.resized)
        colour = (
            F.avg_pool2d(maps.pixels[None], maps.pixels.shape[-1] // side)[0, :, :height, :width]
            .cpu()
            .numpy()
        )
        index = np.arange(height * width).reshape(height, width)
        first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
        second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
        differences = [colour[:, :, 1:] - colour[:, :, :-1], colour[:, 1:] - colour[:, :-1]]
        squared = np.concatenate([(one**2).sum(0).ravel() for one in differences])
        weights = np.exp(-CONTRAST * squared / (squared.mean() + 1e-9)) + 1e-3
        half = sparse.coo_matrix((weights, (first, second)), (index.size, index.size)).tocsr()
        return ColourGraph((half + half.T).tocsr(), (height, width), side)

    def logits(self, known: ColourGraph, wanted: Wanted) -> np.ndarray:
        height, width = known.shape
        belief: np.ndarray = np.zeros((height, width))
        weight: np.ndarray = np.full((height, width), 1e-6)
        if wanted.mask is not None:
            covered = wanted.mask[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
            belief, weight = PRIOR * covered, weight + PRIOR
        else:
            weight[[0, -1]] = weight[:, [0, -1]] = RIM
        at = np.minimum((wanted.points / STRIDE).astype(int), [width - 1, height - 1])
        fixed, value = np.zeros((height, width), bool), np.zeros((height, width))
        fixed[at[:, 1], at[:, 0]], value[at[:, 1], at[:, 0]] = True, wanted.positive
        free, known_part = ~fixed.ravel(), np.where(fixed, value, 0).ravel()
        diagonal = np.asarray(known.links.sum(1)).ravel() + weight.ravel()
        keep = sparse.diags(free.astype(float))
        matrix = keep @ (sparse.diags(diagonal) - known.links) @ keep + sparse.diags((~free).astype(float))
        target = np.where(free, belief.ravel() + known.links @ known_part, known_part)
        scale = sparse.diags(1 / np.where(free, diagonal, 1))
        chance, _ = cg(matrix, target, x0=known_part, rtol=1e-3, maxiter=STEPS, M=scale)
        square = np.zeros((known.side, known.side), np.float32)
        square[:height, :width] = chance.reshape(height, width)
        whole = F.interpolate(torch.from_numpy(square)[None, None], scale_factor=2.0, mode="bilinear")[0, 0]
        return 8 * (whole.numpy() - 0.5)
