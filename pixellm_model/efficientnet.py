"""EfficientNet-Lite0 as a second, frozen tower: what a thing is called, where the first tells where it ends.

Only transformers' EfficientNet exists as a kept library without torchvision, and that has what the Lite
models left out (squeeze-and-excitation, swish). Batch norms are folded into the convolutions, so every
convolution has a bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pixellm_model.preprocess import PIXEL_MEAN, PIXEL_STD

# Repeats, kernel, stride of the first, expansion, channels out (Tan and Le 2019, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MIDDLE = 10  # the last block at a sixteenth of the input
SHALLOW = 4  # and at an eighth
FINER = (STAGES[4][-1], STAGES[2][-1])  # the channels of the maps of these two
CHANNELS = STAGES[4][-1] + STAGES[6][-1]
STRIDE = 32  # of the deep features; the middle ones have half of it
INPUT_MEAN, INPUT_STD = 127.0, 128.0  # of 0..255 pixels, all channels


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: at stride 2 the odd pixel goes to the bottom right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, out channels, h / stride, w / stride), for sides that `stride` divides."""
        before = (self.kernel_size[0] - self.stride[0]) // 2
        after = self.kernel_size[0] - self.stride[0] - before
        if before != after:
            x, before = F.pad(x, (before, after, before, after)), 0
        return F.conv2d(x, self.weight, self.bias, self.stride, before, 1, self.groups)


class InvertedResidual(nn.Module):
    """MobileNetV2's block, without squeeze-and-excitation."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = into * expansion
        self.expand = SameConv(into, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, out, 1)
        self.residual = into == out and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, into, h, w) -> (B, out, h / stride, w / stride)."""
        wide = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """Features of two depths on one grid, each layer-normalised over its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.blocks = nn.ModuleList()
        channels = 32
        for repeats, kernel, stride, expansion, out in STAGES:
            for number in range(repeats):
                first = stride if number == 0 else 1
                self.blocks.append(InvertedResidual(channels, out, kernel, first, expansion))
                channels = out

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) pixels as `process_image` normalises them -> (B, (S/STRIDE)**2, CHANNELS)."""
        return self.maps(pixel_values)[0]

    def maps(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `forward` gives, and the finer maps it is made of.

        Args:
            pixel_values: (B, 3, S, S) pixels as `process_image` normalises them.

        Returns:
            The features (B, (S/STRIDE)**2, CHANNELS), and layer-normalised maps at a sixteenth and an eighth
            of the input, (B, FINER[0], S/16, S/16) and (B, FINER[1], S/8, S/8).
        """
        mean, std = (pixel_values.new_tensor(value).view(3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
        pixels = (pixel_values * std + mean - INPUT_MEAN) / INPUT_STD
        # Depthwise convolutions are nearly twice as fast on CPUs with channels last.
        x = F.relu6(self.stem(pixels.contiguous(memory_format=torch.channels_last)), inplace=True)
        middle = shallow = x
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == SHALLOW:
                shallow = x
            if number == MIDDLE:
                middle = x
        coarse = [m.flatten(2).transpose(1, 2) for m in (F.avg_pool2d(middle, 2), x)]
        features = torch.cat([F.layer_norm(m, m.shape[-1:]) for m in coarse], dim=-1)
        return features, _normalised(middle), _normalised(shallow)


def _normalised(x: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) layer-normalised over its channels."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
