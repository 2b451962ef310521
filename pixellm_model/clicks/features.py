"""What the frozen towers see in a photo at every stride, for refinement by clicks.

The towers run once a photo. The second tower's finer maps are taken from its blocks while it runs; what the
model itself reads of it (strides 16 and 32) is not changed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pixellm_model.model import PixelLM
from pixellm_model.preprocess import PIXEL_MEAN, PIXEL_STD, ProcessedImage, patch_mask

CLICK_SIZE = 512  # pixels of the square the towers see, whatever size the model itself works at
BLOCKS = {4: 2, 8: 4, 16: 10, 32: 15}  # stride: the last block of EfficientNet-Lite0 that has it


@dataclass(frozen=True)
class TowerMaps:
    """One photo's features, each map on the padded square of `size` pixels.

    `first` (C, g, g) holds the first tower's layers, `second` the second tower's maps by stride, each
    layer-normalised over its channels (empty without a second tower); `pixels` (3, size/2, size/2) is the
    photo in 0..1; `resized` is its height and width within the square, `original` in its own pixels.
    """

    first: torch.Tensor
    second: dict[int, torch.Tensor]
    pixels: torch.Tensor
    size: int
    resized: tuple[int, int]
    original: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.first, self.pixels, *self.second.values()))


def click_size(model: PixelLM) -> int:
    """Side of the square that refinement works on: a tower without a second one takes its own size only."""
    return CLICK_SIZE if model.config.second_tower else model.config.image_size


def tower_maps(model: PixelLM, image: ProcessedImage) -> TowerMaps:
    """Run the towers on one photo, prepared at the model's size or at `click_size`."""
    size = click_size(model)
    pixels, resized = image.pixel_values[None], image.resized
    if pixels.shape[-1] != size:
        scale = size / pixels.shape[-1]
        resized = (max(1, round(resized[0] * scale)), max(1, round(resized[1] * scale)))
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    tower = model.model.vision_tower
    mask = patch_mask(resized, size, model.config.patch_size)[None].to(model.device)
    blocks = {tower.second.blocks[at]: stride for stride, at in BLOCKS.items()} if tower.second else {}
    with _Outputs(blocks) as seen:
        states = tower(pixels.to(model.device, model.dtype), mask)
    assert model.config.tower is not None
    width, grid = int(model.config.tower.hidden_size), mask.shape[-1]
    first = torch.cat([state[0, :, :width].T.unflatten(1, (grid, grid)) for state in states])
    second = {
        stride: F.layer_norm(out.permute(0, 2, 3, 1), (out.shape[1],)).permute(0, 3, 1, 2)[0]
        for stride, out in seen.items()
    }
    mean, std = (pixels.new_tensor(value).view(3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
    shown = ((F.avg_pool2d(pixels, 2)[0] * std + mean) / 255).clamp(0, 1).to(model.device)
    return TowerMaps(
        first.float(), {k: v.float() for k, v in second.items()}, shown, size, resized, image.original
    )


class _Outputs:
    """What some modules give out while the context is open, by the names given for them.

    Several segmenters may share the modules, each in its own thread: others' outputs are not taken.
    """

    def __init__(self, modules: dict[nn.Module, int]):
        self._modules, self._thread = modules, threading.get_ident()
        self._found: dict[int, torch.Tensor] = {}

    def __enter__(self) -> dict[int, torch.Tensor]:
        self._handles = [module.register_forward_hook(self._keep) for module in self._modules]
        return self._found

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Module, _: Any, output: torch.Tensor) -> None:
        if threading.get_ident() == self._thread:
            self._found[self._modules[module]] = output
