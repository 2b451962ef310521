"""The baseline of `benchmarks.clicks`: a random walker on colour alone.

Grady, "Random walks for image segmentation" (2006). Without a current mask the photo's border is background;
a current mask is a weak prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import cg

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.prompt import ClickPrompt

STRIDE = 4  # pixels of the padded square per cell
CONTRAST = 3.0  # how strongly a mean difference of colour hinders a walker
MASK_WEIGHT, BORDER_WEIGHT = 0.02, 0.3  # of the current mask and of the photo's border
MAX_ITERATIONS = 80  # of conjugate gradients
LOGITS_PER_UNIT = 8


@dataclass(frozen=True)
class ColourGraph:
    """A photo as a grid of cells.

    Attributes:
        links: (n, n), the similarity of neighbouring cells in 0..1.
        shape: Height and width of the photo in cells.
        side: Cells along the padded square's side.
    """

    links: sparse.csr_matrix
    shape: tuple[int, int]
    side: int

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return int(self.links.data.nbytes + self.links.indices.nbytes + self.links.indptr.nbytes)


class ColourWalker:
    """A `RefinementMethod` that reads nothing but colour."""

    def encode(self, maps: TowerMaps) -> ColourGraph:
        """Link neighbouring cells by their colour."""
        side = maps.size // STRIDE
        height, width = (min(side, -(-length // STRIDE)) for length in maps.resized)
        pooled = F.avg_pool2d(maps.pixels[None], maps.pixels.shape[-1] // side)
        colour = pooled[0, :, :height, :width].cpu().numpy()
        index = np.arange(height * width).reshape(height, width)
        first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
        second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
        differences = [colour[:, :, 1:] - colour[:, :, :-1], colour[:, 1:] - colour[:, :-1]]
        squared = np.concatenate([(difference**2).sum(0).ravel() for difference in differences])
        similarity = np.exp(-CONTRAST * squared / (squared.mean() + 1e-9)) + 1e-3
        half = sparse.coo_matrix((similarity, (first, second)), (index.size, index.size)).tocsr()
        return ColourGraph((half + half.T).tocsr(), (height, width), side)

    def logits(self, encoded: ColourGraph, prompt: ClickPrompt) -> npt.NDArray[np.float32]:
        """Logits (S/2, S/2): how likely a walker from each cell reaches a positive click first."""
        height, width = encoded.shape
        prior: np.ndarray = np.zeros((height, width))
        weight: np.ndarray = np.full((height, width), 1e-6)
        if prompt.mask is not None:
            coverage = prompt.mask[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
            prior, weight = MASK_WEIGHT * coverage, weight + MASK_WEIGHT
        else:
            weight[[0, -1]] = weight[:, [0, -1]] = BORDER_WEIGHT
        cells = np.minimum((prompt.points / STRIDE).astype(int), [width - 1, height - 1])
        clicked, value = np.zeros((height, width), bool), np.zeros((height, width))
        clicked[cells[:, 1], cells[:, 0]], value[cells[:, 1], cells[:, 0]] = True, prompt.positive
        probability = _solve(encoded.links, prior.ravel(), weight.ravel(), clicked.ravel(), value.ravel())
        square = np.zeros((encoded.side, encoded.side), np.float32)
        square[:height, :width] = probability.reshape(height, width)
        enlarged = F.interpolate(torch.from_numpy(square)[None, None], scale_factor=2.0, mode="bilinear")[
            0, 0
        ]
        return (LOGITS_PER_UNIT * (enlarged - 0.5)).numpy()


def _solve(
    links: sparse.csr_matrix, prior: np.ndarray, weight: np.ndarray, clicked: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """The walkers' probabilities (n,), where `clicked` cells have `value`; `prior` is already weighted."""
    unknown, boundary = ~clicked, np.where(clicked, value, 0)
    diagonal = np.asarray(links.sum(1)).ravel() + weight
    select = sparse.diags(unknown.astype(float))
    matrix = select @ (sparse.diags(diagonal) - links) @ select + sparse.diags(clicked.astype(float))
    target = np.where(unknown, prior + links @ boundary, boundary)
    preconditioner = sparse.diags(1 / np.where(unknown, diagonal, 1))
    probability, _ = cg(matrix, target, x0=boundary, rtol=1e-3, maxiter=MAX_ITERATIONS, M=preconditioner)
    return probability
