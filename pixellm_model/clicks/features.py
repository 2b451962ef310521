"""The frozen towers' feature maps of a photo at every stride, for refinement by clicks.

The towers run once per photo. The second tower's finer maps are captured from its blocks as it runs; its
output to the model itself (strides 16 and 32) does not change.
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

CLICK_SIZE = 512  # pixels of the padded square's side, whatever size the model itself works at
LAST_BLOCKS = {4: 2, 8: 4, 16: 10, 32: 15}  # stride: the last block of EfficientNet-Lite0 at that stride


@dataclass(frozen=True)
class TowerMaps:
    """One photo's features; each map covers the padded square.

    Attributes:
        first: The first tower's layers, concatenated, (C, g, g) float32.
        second: The second tower's maps by stride s, (c, size/s, size/s) float32, each layer-normalised over
            its channels; empty without a second tower.
        pixels: The photo, (3, size/2, size/2) RGB in 0..1.
        size: The square's side in pixels.
        resized: Height and width of the photo within the square, in pixels.
        original: Height and width of the photo itself, in pixels.
    """

    first: torch.Tensor
    second: dict[int, torch.Tensor]
    pixels: torch.Tensor
    size: int
    resized: tuple[int, int]
    original: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return sum(t.nbytes for t in (self.first, self.pixels, *self.second.values()))


def click_size(model: PixelLM) -> int:
    """Side of the padded square in pixels; without a second tower it is the only size the first one takes."""
    return CLICK_SIZE if model.config.second_tower else model.config.image_size


def tower_maps(model: PixelLM, image: ProcessedImage) -> TowerMaps:
    """Run the towers on one photo.

    Args:
        model: The model whose towers run.
        image: The photo, prepared at the model's size or at `click_size`.

    Returns:
        The feature maps, on the model's device.
    """
    size = click_size(model)
    pixels, resized = image.pixel_values[None], image.resized
    if pixels.shape[-1] != size:
        scale = size / pixels.shape[-1]
        resized = (max(1, round(resized[0] * scale)), max(1, round(resized[1] * scale)))
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    tower = model.model.vision_tower
    mask = patch_mask(resized, size, model.config.patch_size)[None].to(model.device)
    blocks = {tower.second.blocks[n]: stride for stride, n in LAST_BLOCKS.items()} if tower.second else {}
    with _CapturedOutputs(blocks) as outputs:
        # A pyramid's tower gives out finer maps as well; the same come from the blocks.
        states = tower(pixels.to(model.device, model.dtype), mask)[: len(model.config.select_layers)]
    assert model.config.tower is not None
    width, grid = int(model.config.tower.hidden_size), mask.shape[-1]
    first = torch.cat([state[0, :, :width].T.unflatten(1, (grid, grid)) for state in states])
    second = {
        stride: F.layer_norm(output.permute(0, 2, 3, 1), (output.shape[1],)).permute(0, 3, 1, 2)[0].float()
        for stride, output in outputs.items()
    }
    mean, std = (pixels.new_tensor(value).view(3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
    photo = ((F.avg_pool2d(pixels, 2)[0] * std + mean) / 255).clamp(0, 1).to(model.device)
    return TowerMaps(first.float(), second, photo, size, resized, image.original)


class _CapturedOutputs:
    """A context that captures the outputs of modules, by the stride that each is at.

    Several segmenters may share the modules, each in its own thread; only this thread's outputs are captured.
    """

    def __init__(self, modules: dict[nn.Module, int]):
        self._modules, self._thread = modules, threading.get_ident()
        self._outputs: dict[int, torch.Tensor] = {}

    def __enter__(self) -> dict[int, torch.Tensor]:
        self._handles = [module.register_forward_hook(self._capture) for module in self._modules]
        return self._outputs

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _capture(self, module: nn.Module, _: Any, output: torch.Tensor) -> None:
        if threading.get_ident() == self._thread:
            self._outputs[self._modules[module]] = output
