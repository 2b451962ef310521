"""Refinement by the trained click head."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.head import COARSE_STRIDE, ClickHead, PhotoEmbedding, PromptBatch
from pixellm_model.clicks.kernel_refiner import CellGraph, KernelRefiner
from pixellm_model.clicks.points import Box
from pixellm_model.clicks.prompt import MASK_STRIDE, ClickPrompt
from pixellm_model.samples import Mask

MAX_PREDICTIONS = 8  # remembered per photo
MAX_REPLAYED = 8  # clicks whose predictions are made again when they are not remembered

ClicksKey = tuple[bytes, bytes, Box | None]


@dataclass(frozen=True)
class EncodedPhoto:
    """What the click head and the training-free method compute of a photo.

    Attributes:
        embedding: The click head's.
        cells: The training-free method's.
        mask_shape: Rows and columns of a mask that show the photo; the rest is padding.
        predictions: The latest masks (S/2, S/2), by the clicks and box that they were predicted from.
    """

    embedding: PhotoEmbedding
    cells: CellGraph
    mask_shape: tuple[int, int]
    predictions: OrderedDict[ClicksKey, Mask] = field(default_factory=OrderedDict)

    @property
    def nbytes(self) -> int:
        """Size in memory, with all predictions that may be remembered."""
        side = self.cells.side * COARSE_STRIDE // MASK_STRIDE
        return self.embedding.nbytes + self.cells.nbytes + MAX_PREDICTIONS * side**2


class HeadRefiner:
    """The refinement method for checkpoints with a click head.

    The head is best at correcting masks. Without a current mask each click therefore corrects the prediction
    from the clicks before it; these predictions are remembered, and made again if they are not.

    Attributes:
        head: The click head.
        kernel: The training-free method, whose scores the head reads.
    """

    def __init__(self, head: ClickHead):
        self.head, self.kernel = head, KernelRefiner(COARSE_STRIDE)

    def encode(self, maps: TowerMaps) -> EncodedPhoto:
        """Compute what depends on the photo alone.

        Args:
            maps: The photo's features.

        Returns:
            Its embedding and cells.
        """
        height, width = (-(-length // MASK_STRIDE) for length in maps.resized)
        return EncodedPhoto(self.head.embed([maps]), self.kernel.encode(maps), (height, width))

    def logits(self, encoded: EncodedPhoto, prompt: ClickPrompt) -> npt.NDArray[np.float32]:
        """Predict an object's mask.

        Args:
            encoded: The photo, as `encode` returned it; predictions are added to it.
            prompt: Clicks, box and current mask.

        Returns:
            Logits (S/2, S/2) on the padded square of S pixels.
        """
        if prompt.mask is not None:
            return self._predict(encoded, prompt)
        count, fewest = len(prompt.points), 1 if prompt.box is None else 0
        start, mask = max(fewest, count - MAX_REPLAYED), None
        for earlier in range(count - 1, fewest - 1, -1):
            remembered = encoded.predictions.get(_key(_first_clicks(prompt, earlier)))
            if remembered is not None:
                start, mask = earlier + 1, remembered
                break
        for number in range(start, count + 1):
            clicked = _first_clicks(prompt, number)
            current = mask if mask is not None and mask.any() else None
            logits = self._predict(encoded, replace(clicked, mask=current))
            mask = np.zeros(logits.shape, bool)
            photo = (slice(encoded.mask_shape[0]), slice(encoded.mask_shape[1]))
            mask[photo] = logits[photo] > 0
            encoded.predictions[_key(clicked)] = mask
        while len(encoded.predictions) > MAX_PREDICTIONS:
            encoded.predictions.popitem(last=False)
        return logits

    def _predict(self, encoded: EncodedPhoto, prompt: ClickPrompt) -> npt.NDArray[np.float32]:
        batch = _batch_of_one(prompt, encoded.embedding, self.kernel.scores(encoded.cells, prompt))
        return self.head(encoded.embedding, batch)[0].cpu().numpy()


def _first_clicks(prompt: ClickPrompt, count: int) -> ClickPrompt:
    """The prompt as it was after its first `count` clicks."""
    return replace(prompt, points=prompt.points[:count], positive=prompt.positive[:count])


def _key(prompt: ClickPrompt) -> ClicksKey:
    return prompt.points.tobytes(), prompt.positive.tobytes(), prompt.box


def _batch_of_one(
    prompt: ClickPrompt, embedding: PhotoEmbedding, scores: npt.NDArray[np.float32]
) -> PromptBatch:
    """The click head's input for one object, on the embedding's device."""
    device, side = embedding.coarse.device, 2 * embedding.fine.shape[-1]
    # The first column is padding, so that there is at least one.
    points = torch.zeros(1, len(prompt.points) + 1, 2)
    signs = torch.zeros(1, len(prompt.points) + 1)
    points[0, 1:] = torch.from_numpy(prompt.points)
    signs[0, 1:] = torch.from_numpy(np.where(prompt.positive, 1.0, -1.0))
    mask = torch.zeros(1, side, side)
    if prompt.mask is not None:
        mask[0] = torch.from_numpy(prompt.mask)
    box = torch.tensor([prompt.box or (0.0, 0.0, 0.0, 0.0)])
    has_mask, has_box = torch.tensor([prompt.mask is not None]), torch.tensor([prompt.box is not None])
    tensors = (points, signs, mask, has_mask, box, has_box, torch.from_numpy(scores)[None])
    return PromptBatch(*(tensor.to(device) for tensor in tensors))
