"""Refinement by the trained click head."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.head import COARSE, ClickHead, Embedded, Prompts
from pixellm_model.clicks.kernel import Cells, KernelRefiner
from pixellm_model.clicks.wanted import MASK_STRIDE, Wanted

REMEMBERED = 8  # masks drawn from nothing, a photo
REPLAYED = 8  # clicks at most whose masks are drawn again when they are not remembered

Key = tuple[bytes, bytes, tuple[float, ...] | None]


@dataclass(frozen=True)
class Known:
    """A photo as the head and as the training-free method know it; `shape` is how many rows and columns of a
    mask hold photo, `drawn` the latest masks (S/2, S/2) bool by the clicks that they were drawn from.
    """

    embedded: Embedded
    cells: Cells
    shape: tuple[int, int]
    drawn: OrderedDict[Key, np.ndarray] = field(default_factory=OrderedDict)

    @property
    def nbytes(self) -> int:
        side = self.cells.side * COARSE // MASK_STRIDE
        return self.embedded.nbytes + self.cells.nbytes + REMEMBERED * side**2


class LearnedRefiner:
    """A click head, asked about one object at a time.

    The head corrects masks best. So where none is given, each click corrects the mask of the clicks before;
    these masks are remembered, and drawn again if they are not.
    """

    def __init__(self, head: ClickHead):
        self.head, self.kernel = head, KernelRefiner(COARSE)

    def know(self, maps: TowerMaps) -> Known:
        """What is kept of a photo."""
        height, width = (-(-length // MASK_STRIDE) for length in maps.resized)
        return Known(self.head.embed([maps]), self.kernel.know(maps), (height, width))

    def logits(self, known: Known, wanted: Wanted) -> np.ndarray:
        """The object's logits (S/2, S/2) float32."""
        if wanted.mask is not None:
            return self._draw(known, wanted)
        count, least = len(wanted.points), 1 if wanted.box is None else 0
        begin, mask = max(least, count - REPLAYED), None
        for earlier in range(count - 1, least - 1, -1):
            found = known.drawn.get(_key(_first(wanted, earlier)))
            if found is not None:
                begin, mask = earlier + 1, found
                break
        for clicked in range(begin, count + 1):
            asked = _first(wanted, clicked)
            logits = self._draw(known, replace(asked, mask=mask if mask is not None and mask.any() else None))
            mask = np.zeros(logits.shape, bool)
            inside = (slice(known.shape[0]), slice(known.shape[1]))
            mask[inside] = logits[inside] > 0
            known.drawn[_key(asked)] = mask
        while len(known.drawn) > REMEMBERED:
            known.drawn.popitem(last=False)
        return logits

    def _draw(self, known: Known, wanted: Wanted) -> np.ndarray:
        prompts = _prompts(wanted, known.embedded, self.kernel.belief(known.cells, wanted))
        return self.head(known.embedded, prompts)[0].cpu().numpy()


def _first(wanted: Wanted, count: int) -> Wanted:
    """What was wanted when only the first `count` clicks had been made."""
    return replace(wanted, points=wanted.points[:count], positive=wanted.positive[:count])


def _key(wanted: Wanted) -> Key:
    return wanted.points.tobytes(), wanted.positive.tobytes(), wanted.box


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
