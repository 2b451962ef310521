"""Refinement by the trained click head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.head import COARSE, ClickHead, Embedded, Prompts
from pixellm_model.clicks.kernel import Cells, KernelRefiner
from pixellm_model.clicks.wanted import Wanted


@dataclass(frozen=True)
class Known:
    """A photo as the head and as the training-free method know it."""

    embedded: Embedded
    cells: Cells

    @property
    def nbytes(self) -> int:
        return self.embedded.nbytes + self.cells.nbytes


class LearnedRefiner:
    """A click head, asked about one object at a time."""

    def __init__(self, head: ClickHead):
        self.head, self.kernel = head, KernelRefiner(COARSE)

    def know(self, maps: TowerMaps) -> Known:
        """What is kept of a photo."""
        return Known(self.head.embed([maps]), self.kernel.know(maps))

    def logits(self, known: Known, wanted: Wanted) -> np.ndarray:
        """The object's logits (S/2, S/2) float32."""
        prompts = _prompts(wanted, known.embedded, self.kernel.belief(known.cells, wanted))
        return self.head(known.embedded, prompts)[0].cpu().numpy()


def _prompts(wanted: Wanted, known: Embedded, belief: np.ndarray) -> Prompts:
    device, side = known.coarse.device, 2 * known.fine.shape[-1]
    # A column of no click, so that there always is one.
    points = torch.zeros(1, len(wanted.points) + 1, 2)
    signs = torch.zeros(1, len(wanted.points) + 1)
    points[0, 1:] = torch.from_numpy(wanted.points)
    signs[0, 1:] = torch.from_numpy(np.where(wanted.positive, 1.0, -1.0))
    mask = torch.zeros(1, side, side)
    if wanted.mask is not None:
        mask[0] = torch.from_numpy(wanted.mask)
    box = torch.tensor([wanted.box or (0.0, 0.0, 0.0, 0.0)])
    flags = (torch.tensor([wanted.mask is not None]), torch.tensor([wanted.box is not None]))
    parts = (points, signs, mask, flags[0], box, flags[1], torch.from_numpy(belief)[None])
    return Prompts(*(part.to(device) for part in parts))
