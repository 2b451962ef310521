"""The training-free method: kernel regression from clicks over tower features, colour and position.

Each click is an observation, 1 or -1, of a smooth function over the photo whose sign is the mask: a Gaussian
process with a squared exponential kernel on the cells' features, colour and position. Its prior mean is the
current mask or, without one, mildly negative everywhere. The posterior mean is then smoothed, but not across
edges of the photo (with the link weights of Grady, "Random walks for image segmentation", 2006).
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
from pixellm_model.clicks.prompt import MASK_STRIDE, ClickPrompt

Floats = npt.NDArray[np.floating]

STRIDE = 4  # pixels of the square per cell by default; the click head uses a coarser one
COMPONENTS = 16  # principal components kept of each feature map
# Weights of the parts of a cell's vector, tuned on training photos with simulated clicks. Weights of parts
# that a checkpoint lacks are shared among the others.
FIRST_TOWER_WEIGHTS = (0.3, 0.45)  # by layer
SECOND_TOWER_WEIGHTS = {32: 0.3, 16: 0.9, 8: 0.3, 4: 0.07}  # by stride
COLOUR_WEIGHT = 0.15
TOTAL_WEIGHT = sum(FIRST_TOWER_WEIGHTS) + sum(SECOND_TOWER_WEIGHTS.values()) + COLOUR_WEIGHT
POSITION_WEIGHT = 10.0  # of positions, in units of the square's side
PRIOR, BOX_PRIOR = -0.5, 0.1  # prior mean without a mask; inside a box
MASK_PRIOR = 0.9  # its size where there is a mask
CLICK_NOISE, BOX_NOISE = 0.05, 0.5  # noise variance of clicks, and of what a box suggests
LOGITS_PER_UNIT = 4.0
CONTRAST = 3.0  # how strongly a mean difference between neighbours hinders smoothing
# How strongly values resist smoothing: the posterior mean's, those of clicks, those of what a box suggests.
DATA_WEIGHT, CLICK_WEIGHT, BOX_WEIGHT = 0.001, 5.0, 0.1
MAX_ITERATIONS = 60  # of conjugate gradients
# Points of a box that are taken as object, in units of its sides, and how far outside it background begins.
BOX_INSIDE = ((0.5, 0.5), (0.3, 0.5), (0.7, 0.5), (0.5, 0.3), (0.5, 0.7))
BOX_MARGIN = 0.06


@dataclass(frozen=True)
class CellGraph:
    """A photo as a grid of h x w cells.

    Attributes:
        vectors: (h * w, d) float32; the more two cells differ, the larger their squared distance.
        links: (h * w, h * w), the similarity of neighbouring cells in 0..1.
        shape: Height h and width w of the photo in cells.
        side: Cells along the padded square's side.
    """

    vectors: npt.NDArray[np.float32]
    links: sparse.csr_array
    shape: tuple[int, int]
    side: int

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        links = self.links
        return int(self.vectors.nbytes + links.data.nbytes + links.indices.nbytes + links.indptr.nbytes)

    def mirrored(self) -> CellGraph:
        """The photo with left and right exchanged."""
        height, width = self.shape
        order = np.arange(height * width).reshape(height, width)[:, ::-1].ravel()
        return CellGraph(self.vectors[order], self.links[order][:, order], self.shape, self.side)


class KernelRefiner:
    """The refinement method for checkpoints without a click head.

    Attributes:
        stride: Pixels of the padded square per cell, a multiple of MASK_STRIDE.
    """

    def __init__(self, stride: int = STRIDE):
        self.stride = stride

    def encode(self, maps: TowerMaps) -> CellGraph:
        """Compute what depends on the photo alone.

        Args:
            maps: The photo's features.

        Returns:
            Its cells and their links.
        """
        side = maps.size // self.stride
        height, width = (min(side, -(-length // self.stride)) for length in maps.resized)
        shape = (height, width)
        layer = len(maps.first) // len(FIRST_TOWER_WEIGHTS)
        colour = F.avg_pool2d(maps.pixels[None], maps.pixels.shape[-1] // side)[0]
        parts = [
            (FIRST_TOWER_WEIGHTS[0], maps.first[:layer]),
            (FIRST_TOWER_WEIGHTS[1], maps.first[layer:]),
            *((SECOND_TOWER_WEIGHTS[stride], features) for stride, features in maps.second.items()),
            (COLOUR_WEIGHT, colour),
        ]
        share = TOTAL_WEIGHT / sum(weight for weight, _ in parts)
        reduced = [(weight * share) ** 0.5 * _principal(part, side, shape) for weight, part in parts]
        features = torch.cat(reduced).cpu().numpy()
        links = _links([features, colour[:, :height, :width].cpu().numpy()])
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        position = (POSITION_WEIGHT**0.5 * torch.stack([rows, columns]) / side).numpy()
        vectors = np.concatenate([features, position]).reshape(-1, height * width).T
        return CellGraph(np.ascontiguousarray(vectors), links, shape, side)

    def logits(self, encoded: CellGraph, prompt: ClickPrompt) -> npt.NDArray[np.float32]:
        """Predict an object's mask.

        Args:
            encoded: The photo, as `encode` returned it.
            prompt: Clicks, box and current mask.

        Returns:
            Logits (S/2, S/2) on the padded square of S pixels.
        """
        scores = torch.from_numpy(self.scores(encoded, prompt))[None, None]
        factor = float(self.stride // MASK_STRIDE)
        enlarged = F.interpolate(scores, scale_factor=factor, mode="bilinear")[0, 0]
        return (LOGITS_PER_UNIT * enlarged).numpy()

    def scores(self, encoded: CellGraph, prompt: ClickPrompt) -> npt.NDArray[np.float32]:
        """Estimate the function whose sign is the mask.

        Args:
            encoded: The photo, as `encode` returned it.
            prompt: Clicks, box and current mask.

        Returns:
            Its values on the padded square, (side, side), about -1 to 1; -1 in the padding.
        """
        height, width = encoded.shape
        values = self._prior(encoded.shape, prompt)
        points, signs, noise = _observations(prompt)
        if len(points):
            cells = np.minimum((points / self.stride).astype(int), [width - 1, height - 1])
            indices = cells[:, 1] * width + cells[:, 0]
            kernel = _kernel(encoded.vectors, indices)  # (h * w, n)
            residual = signs - values.ravel()[indices]
            coefficients = np.linalg.solve(kernel[indices] + np.diag(noise), residual)
            posterior = values.ravel() + kernel @ coefficients.astype(np.float32)
            values = _smooth(encoded.links, posterior, indices, signs, noise).reshape(height, width)
        square = np.full((encoded.side, encoded.side), -1, np.float32)
        square[:height, :width] = values
        return square

    def _prior(self, shape: tuple[int, int], prompt: ClickPrompt) -> npt.NDArray[np.float32]:
        """The prior mean (h, w)."""
        height, width = shape
        if prompt.mask is not None:
            step = self.stride // MASK_STRIDE
            mask = prompt.mask[: height * step, : width * step]
            coverage = mask.reshape(height, step, width, step).mean((1, 3))
            return (MASK_PRIOR * (2 * coverage - 1)).astype(np.float32)
        prior = np.full(shape, PRIOR, np.float32)
        if prompt.box is not None:
            x0, y0, x1, y1 = (edge / self.stride for edge in prompt.box)
            rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
            prior[np.outer((rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1))] = BOX_PRIOR
        return prior


def _kernel(vectors: npt.NDArray[np.float32], indices: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """The squared exponential kernel between all cells and some of them: (h * w, n)."""
    chosen = vectors[indices]
    squared = (vectors**2).sum(1)[:, None] + (chosen**2).sum(1) - 2 * vectors @ chosen.T
    return np.exp(-squared.clip(0) / 2)


def _links(maps: list[npt.NDArray[np.float32]]) -> sparse.csr_array:
    """The similarity of neighbouring cells in all of some maps (d, h, w)."""
    height, width = maps[0].shape[1:]
    index = np.arange(height * width).reshape(height, width)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    difference = np.zeros(len(first))
    for values in maps:
        steps = (values[:, :, 1:] - values[:, :, :-1], values[:, 1:] - values[:, :-1])
        squared = np.concatenate([(step**2).sum(0).ravel() for step in steps])
        difference += squared / (squared.mean() + 1e-9) / len(maps)
    similarity = (np.exp(-CONTRAST * difference) + 1e-3).astype(np.float32)
    half = sparse.coo_array((similarity, (first, second)), (index.size, index.size)).tocsr()
    return (half + half.T).tocsr()


def _smooth(
    links: sparse.csr_array, posterior: Floats, indices: npt.NDArray[np.integer], signs: Floats, noise: Floats
) -> npt.NDArray[np.float32]:
    """Values (h * w,) near the posterior mean, near the signs at observations, and smooth along the links."""
    weights, target = np.full(len(posterior), DATA_WEIGHT), posterior.astype(np.float64)
    weights[indices] = np.where(noise <= CLICK_NOISE, CLICK_WEIGHT, BOX_WEIGHT)
    target[indices] = signs
    diagonal = links.sum(1) + weights
    matrix = sparse.diags_array(diagonal) - links
    preconditioner = sparse.diags_array(1 / diagonal)
    smooth, _ = cg(matrix, weights * target, x0=target, rtol=1e-3, maxiter=MAX_ITERATIONS, M=preconditioner)
    return smooth.astype(np.float32)


def _observations(prompt: ClickPrompt) -> tuple[Floats, Floats, Floats]:
    """The clicks and, for a box without a mask, its middle as object and its surroundings as background.

    Returns:
        Points (n, 2) in pixels of the square, signs (n,) 1 or -1, and noise variances (n,).
    """
    points, signs = prompt.points, np.where(prompt.positive, 1.0, -1.0)
    noise = np.full(len(points), CLICK_NOISE)
    if prompt.box is None or prompt.mask is not None:
        return points, signs, noise
    x0, y0, x1, y1 = prompt.box
    inside = np.array(BOX_INSIDE)
    along, ends = np.linspace(0, 1, 5), (-BOX_MARGIN, 1 + BOX_MARGIN)
    outside = np.concatenate(
        [np.stack([along, np.full(5, end)], 1) for end in ends]
        + [np.stack([np.full(5, end), along], 1) for end in ends]
    )
    box_points = np.concatenate([inside, outside]) * [x1 - x0, y1 - y0] + [x0, y0]
    return (
        np.concatenate([points, box_points.clip(0)]),
        np.concatenate([signs, np.ones(len(inside)), -np.ones(len(outside))]),
        np.concatenate([noise, np.full(len(box_points), BOX_NOISE)]),
    )


def _principal(features: torch.Tensor, side: int, shape: tuple[int, int]) -> torch.Tensor:
    """The principal components of a map (C, g, g) at the cells: (k, h, w), of mean squared length 1."""
    grid = features.shape[-1]
    rows, columns = (min(grid, max(1, round(length * grid / side))) for length in shape)
    photo = features[:, :rows, :columns].flatten(1).T.float()  # (n, C), without padding
    mean = photo.mean(0)
    _, directions = torch.linalg.eigh((photo - mean).T @ (photo - mean))
    directions = directions[:, -COMPONENTS:]
    components = (features.flatten(1).T.float() - mean) @ directions
    length = ((photo - mean) @ directions).pow(2).sum(1).mean().sqrt()
    components = (components / (length + 1e-3)).T.unflatten(1, (grid, grid))
    enlarged = F.interpolate(components[None], (side, side), mode="bilinear")
    return enlarged[0, :, : shape[0], : shape[1]]
