"""Refinement by clicks and boxes: the towers once a photo, then one small step a click."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pixellm_model.clicks.cache import PhotoCache, Sized
from pixellm_model.clicks.changes import accepted_changes, enlarge, obey, replace_cells
from pixellm_model.clicks.features import TowerMaps, tower_maps
from pixellm_model.clicks.head import FILE, ClickHead
from pixellm_model.clicks.kernel import KernelRefiner
from pixellm_model.clicks.learned import LearnedRefiner
from pixellm_model.clicks.points import Click, checked_box, checked_clicks, checked_mask
from pixellm_model.clicks.wanted import MASK_STRIDE, Square, Wanted, on_square
from pixellm_model.errors import ClickError
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage

CACHE_BYTES = 64 * 2**20


class Method(Protocol):
    """A way to refine: what it keeps of a photo, and the logits (S/2, S/2) of what is wanted of it."""

    def know(self, maps: TowerMaps) -> Any: ...
    def logits(self, known: Any, wanted: Wanted) -> np.ndarray: ...


@dataclass(frozen=True)
class _Photo:
    known: Sized
    square: Square

    @property
    def nbytes(self) -> int:
        return self.known.nbytes


class Refiner:
    """Answers clicks with a trained head or, without one, with the training-free method.

    Segmenters that share their towers may share it. Calls from several threads are answered one after the
    other.
    """

    def __init__(self, model: PixelLM, method: Method | None = None, max_bytes: int = CACHE_BYTES):
        self.model = model
        self.method: Method = KernelRefiner() if method is None else method
        self.cache: PhotoCache[_Photo] = PhotoCache(max_bytes)
        self._lock = threading.Lock()

    @classmethod
    def from_folder(cls, model: PixelLM, folder: Path) -> Refiner:
        """With the click head that lies in a checkpoint's folder, if one does.

        Raises CheckpointError when the file is no click head.
        """
        path = folder / FILE
        return cls(model, LearnedRefiner(ClickHead.load(path).to(model.device)) if path.exists() else None)

    def refine(
        self,
        image: ProcessedImage,
        key: str,
        clicks: Sequence[Click],
        mask: np.ndarray | None,
        box: Sequence[float] | None,
    ) -> tuple[np.ndarray, float]:
        """See `Segmenter.refine`; `key` names the photo and the towers in the cache."""
        whole_box = checked_box(box, image.original)
        made = checked_clicks(clicks, image.original, whole_box)
        current = checked_mask(mask, image.original)
        if not made and whole_box is None:
            raise ClickError("There is nothing to go by; give a click or a box.")
        if current is None and whole_box is None and not any(click.positive for click in made):
            return np.zeros(image.original, bool), 0.0
        with self._lock, torch.inference_mode():
            photo = self._photo(image, key)
            wanted = on_square(photo.square, made, current, whole_box)
            logits = self.method.logits(photo.known, wanted)
        result = _accept(logits, wanted, current, photo.square, whole_box)
        # A click's disk is as wide as a cell of the finest tower map.
        obey(result, made, 2 * MASK_STRIDE / max(photo.square.scale))
        return result, _score(logits, result, photo.square)

    def warm(self, image: ProcessedImage, key: str) -> None:
        """Run the towers for clicks to come."""
        with self._lock, torch.inference_mode():
            self._photo(image, key)

    def forget(self) -> None:
        """Drop what is kept of photos."""
        with self._lock:
            self.cache.clear()

    def _photo(self, image: ProcessedImage, key: str) -> _Photo:
        # Photos of equal pixels may differ in size: the place in the square is not part of the cached state.
        found = self.cache.get(key)
        if found is None:
            maps = tower_maps(self.model, image)
            found = _Photo(self.method.know(maps), Square(maps.size, maps.resized, maps.original))
            self.cache.put(key, found)
        return _Photo(found.known, Square(found.square.size, found.square.resized, image.original))


def _accept(
    logits: np.ndarray,
    wanted: Wanted,
    current: np.ndarray | None,
    square: Square,
    box: tuple[int, int, int, int] | None,
) -> np.ndarray:
    """The photo's mask (H, W) bool: the proposal, or the current mask with what of it was asked for."""
    result = enlarge(logits, square.resized, square.original, square.size)
    if current is not None and len(wanted.points):
        assert wanted.mask is not None
        cells = accepted_changes(logits > 0, wanted.mask, wanted.points / MASK_STRIDE, wanted.positive)
        result = replace_cells(
            current, result, cells, (square.scale[0] / MASK_STRIDE, square.scale[1] / MASK_STRIDE)
        )
    if box is not None:
        bounded = np.zeros_like(result)
        inside = (slice(box[1], box[3]), slice(box[0], box[2]))
        bounded[inside] = result[inside]
        result = bounded
    return result


def _score(logits: np.ndarray, mask: np.ndarray, square: Square) -> float:
    """Mean confidence inside the mask, looked up at every cell's centre."""
    rows, columns = square.cells
    at_rows, at_columns = (
        np.minimum(((np.arange(count) + 0.5) * MASK_STRIDE / scale).astype(int), length - 1)
        for count, scale, length in zip((rows, columns), square.scale, square.original, strict=True)
    )
    inside = mask[np.ix_(at_rows, at_columns)]
    if not inside.any():
        return 0.0
    return float((1 / (1 + np.exp(-logits[:rows, :columns][inside].clip(-30, 30)))).mean())
