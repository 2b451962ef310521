"""Refinement of masks by clicks and boxes: the towers run once per photo, then each click is a small step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pixellm_model.clicks.adjust import Adjustment, clicks_inside, moved_border
from pixellm_model.clicks.cache import PhotoCache, SupportsNbytes
from pixellm_model.clicks.features import TowerMaps, tower_maps
from pixellm_model.clicks.head import CLICK_HEAD_FILE, ClickHead
from pixellm_model.clicks.head_refiner import HeadRefiner
from pixellm_model.clicks.kernel_refiner import KernelRefiner
from pixellm_model.clicks.points import Click, PixelBox, validate_box, validate_clicks, validate_mask
from pixellm_model.clicks.postprocess import accepted_changes, enforce_clicks, replace_cells, restore_mask
from pixellm_model.clicks.prompt import MASK_STRIDE, ClickPrompt, PaddedSquare, build_prompt
from pixellm_model.errors import ClickError
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage
from pixellm_model.samples import Mask

CACHE_BYTES = 64 * 2**20  # bound of the cache of encoded photos
MAX_LOGIT = 30.0  # larger ones are clipped before the exponential


class RefinementMethod(Protocol):
    """A method of interactive segmentation on the towers' features."""

    def encode(self, maps: TowerMaps) -> Any:
        """Compute what depends on the photo alone; it must have `nbytes`, as it is cached."""
        ...

    def logits(self, encoded: Any, prompt: ClickPrompt) -> npt.NDArray[np.float32]:
        """Predict an object's logits (S/2, S/2) from an encoded photo and a prompt."""
        ...


@dataclass(frozen=True)
class _CachedPhoto:
    encoded: SupportsNbytes
    square: PaddedSquare

    @property
    def nbytes(self) -> int:
        return self.encoded.nbytes


class Refiner:
    """Refines masks with a click head or, without one, with the training-free method.

    Segmenters that share their towers may share a refiner. It is safe to call from several threads; calls run
    one after the other.

    Attributes:
        model: The model whose towers run.
        method: How a mask is predicted.
        cache: The encoded photos.
    """

    def __init__(self, model: PixelLM, method: RefinementMethod | None = None, max_bytes: int = CACHE_BYTES):
        self.model = model
        self.method: RefinementMethod = KernelRefiner() if method is None else method
        self.cache: PhotoCache[_CachedPhoto] = PhotoCache(max_bytes)
        self._lock = threading.Lock()

    @classmethod
    def from_folder(cls, model: PixelLM, folder: Path) -> Refiner:
        """Make a refiner with the click head of a checkpoint, if its folder has one.

        Args:
            model: The loaded checkpoint.
            folder: Its folder.

        Returns:
            The refiner; without a click head it uses the training-free method.

        Raises:
            CheckpointError: The file is not a click head.
        """
        path = folder / CLICK_HEAD_FILE
        return cls(model, HeadRefiner(ClickHead.load(path).to(model.device)) if path.exists() else None)

    def refine(
        self,
        image: ProcessedImage,
        key: str,
        clicks: Sequence[Click],
        mask: Mask | None,
        box: Sequence[float] | None,
    ) -> tuple[Mask, float]:
        """Correct the mask of one object, or begin one.

        Args:
            image: The photo, prepared by the model.
            key: The photo and the towers, as the cache's key.
            clicks: All clicks on this object so far, in pixels of the photo.
            mask: The current mask (H, W), or None.
            box: Edges x0, y0, x1, y1 in pixels of the photo, or None.

        Returns:
            The mask (H, W), and the mean confidence inside it in 0..1.

        Raises:
            ClickError: As `Segmenter.refine`.
        """
        pixel_box = validate_box(box, image.original)
        valid_clicks = validate_clicks(clicks, image.original, pixel_box)
        current = validate_mask(mask, image.original)
        if not valid_clicks and pixel_box is None:
            raise ClickError("There is nothing to go by; give a click or a box.")
        if current is None and pixel_box is None and not any(click.positive for click in valid_clicks):
            return np.zeros(image.original, bool), 0.0
        with self._lock, torch.inference_mode():
            photo = self._encode(image, key)
            prompt = build_prompt(photo.square, valid_clicks, current, pixel_box)
            logits = self.method.logits(photo.encoded, prompt)
        result = _merge(logits, prompt, current, photo.square, pixel_box)
        # A click's disk is as wide as a cell of the finest tower map.
        enforce_clicks(result, valid_clicks, 2 * MASK_STRIDE / max(photo.square.scale))
        return result, _mean_confidence(logits, result, photo.square)

    def adjust(
        self, image: ProcessedImage, key: str, mask: Mask | None, kind: Adjustment
    ) -> tuple[Mask, float]:
        """Change the mask of one object without clicks.

        Args:
            image: The photo, prepared by the model.
            key: The photo and the towers, as the cache's key.
            mask: The current mask (H, W).
            kind: "tighter" or "looser" moves its border by a small step; "whole" grows it to the object that
                clicks inside it begin.

        Returns:
            The mask (H, W), and the mean confidence inside it in 0..1.

        Raises:
            ClickError: There is no mask, it is empty, or it has another size than the photo.
        """
        current = validate_mask(mask, image.original)
        if current is None:
            raise ClickError("There is no mask to change.")
        if kind != "whole":
            return moved_border(current, outwards=kind == "looser"), 1.0
        grown, score = self.refine(image, key, clicks_inside(current), None, None)
        return grown | current, score

    def warm(self, image: ProcessedImage, key: str) -> None:
        """Run the towers before the first click; arguments as `refine`."""
        with self._lock, torch.inference_mode():
            self._encode(image, key)

    def forget(self) -> None:
        """Empty the cache."""
        with self._lock:
            self.cache.clear()

    def _encode(self, image: ProcessedImage, key: str) -> _CachedPhoto:
        photo = self.cache.get(key)
        if photo is None:
            maps = tower_maps(self.model, image)
            square = PaddedSquare(maps.size, maps.resized, maps.original)
            photo = _CachedPhoto(self.method.encode(maps), square)
            self.cache.put(key, photo)
        # Photos that are equal after resizing share an entry but may differ in their own size.
        return _CachedPhoto(
            photo.encoded, PaddedSquare(photo.square.size, photo.square.resized, image.original)
        )


def _merge(
    logits: npt.NDArray[np.float32],
    prompt: ClickPrompt,
    current: Mask | None,
    square: PaddedSquare,
    box: PixelBox | None,
) -> Mask:
    """The photo's mask (H, W): the proposal or the changed current mask, clipped to the box."""
    result = restore_mask(logits, square.resized, square.original, square.size)
    if current is not None and len(prompt.points):
        assert prompt.mask is not None
        cells = accepted_changes(logits > 0, prompt.mask, prompt.points / MASK_STRIDE, prompt.positive)
        scale_y, scale_x = square.scale
        result = replace_cells(current, result, cells, (scale_y / MASK_STRIDE, scale_x / MASK_STRIDE))
    if box is not None:
        clipped = np.zeros_like(result)
        inside = (slice(box[1], box[3]), slice(box[0], box[2]))
        clipped[inside] = result[inside]
        result = clipped
    return result


def _mean_confidence(logits: npt.NDArray[np.float32], mask: Mask, square: PaddedSquare) -> float:
    """The mean probability of the cells whose centre lies inside the mask (H, W); 0 if there are none."""
    rows, columns = square.mask_shape
    pixel_rows, pixel_columns = (
        np.minimum(((np.arange(count) + 0.5) * MASK_STRIDE / scale).astype(int), length - 1)
        for count, scale, length in zip((rows, columns), square.scale, square.original, strict=True)
    )
    inside = mask[np.ix_(pixel_rows, pixel_columns)]
    if not inside.any():
        return 0.0
    return float((1 / (1 + np.exp(-logits[:rows, :columns][inside].clip(-MAX_LOGIT, MAX_LOGIT)))).mean())
