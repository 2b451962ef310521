"""The click head: a small convolutional network that turns clicks, a box and a current mask into a mask.

It reads the frozen towers' features. What depends on the photo alone (`ClickHead.embed`) is computed once
per photo; what depends on the clicks (`ClickHead.forward`) is a small U-Net at strides 8 to 32 with a last
step at stride 2. Its input maps are those of clicks, box and mask (Sofiiuk et al., "Reviving iterative
training with mask guidance", 2022), the similarity of each cell to the clicked ones, and the scores of the
training-free method, to which its own output is added.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pixellm_model.clicks.features import TowerMaps
from pixellm_model.clicks.prompt import MASK_STRIDE
from pixellm_model.errors import CheckpointError

CLICK_HEAD_FILE = "click_head.safetensors"
COARSE_STRIDE, FINE_STRIDE = 8, 4  # of the maps that `ClickHead.embed` returns
CLICK_DECAY = 5.0  # cells of the coarse map in which a click's proximity map falls by the factor e
COARSE_DISK, FINE_DISK = 1.5, 2.0  # radius of a click's disk, in cells
LEVEL_CHANNELS = (48, 64, 96)  # at strides 8, 16, 32
FINE_CHANNELS, LAST_CHANNELS = 16, 24  # at stride 4: before and in the last step
METRIC_CHANNELS = 32


@dataclass(frozen=True)
class PromptBatch:
    """The prompts of B objects, on the padded square of S pixels.

    Attributes:
        points: (B, K, 2), x and y of the clicks in pixels.
        signs: (B, K), 1 for a positive click, -1 for a negative one, 0 for padding.
        mask: (B, S/2, S/2), the current mask as 0 and 1.
        has_mask: (B,) bool, whether there is a current mask.
        box: (B, 4), edges x0, y0, x1, y1 in pixels.
        has_box: (B,) bool, whether there is a box.
        kernel_scores: (B, S/8, S/8), `KernelRefiner.scores` of the same prompts.
    """

    points: torch.Tensor
    signs: torch.Tensor
    mask: torch.Tensor
    has_mask: torch.Tensor
    box: torch.Tensor
    has_box: torch.Tensor
    kernel_scores: torch.Tensor


@dataclass(frozen=True)
class PhotoEmbedding:
    """What the click head computes of B photos, before any click.

    Attributes:
        coarse: The photos' share of the first layer's output at stride 8, (B, C, S/8, S/8).
        fine: The same at stride 4, (B, c, S/4, S/4).
        metric: Unit vectors (B, d, S/8, S/8), similar where cells show the same object.
    """

    coarse: torch.Tensor
    fine: torch.Tensor
    metric: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.coarse.nbytes + self.fine.nbytes + self.metric.nbytes

    def repeated(self, times: int) -> PhotoEmbedding:
        """Each photo `times` times in a row, for several objects of it."""
        return PhotoEmbedding(*(m.repeat_interleave(times, 0) for m in (self.coarse, self.fine, self.metric)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection, initialised as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv3(channels, channels)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) -> the same shape."""
        return F.relu(x + self.second(self.first(x)))


class ClickHead(nn.Module):
    """The network. It has no normalisation layers: its input is normalised, and blocks start as the identity.

    Args:
        deep: Channels of the first tower's layers and of the second tower at stride 32, together.
        middle: Channels of the second tower at stride 16.
        shallow: Channels of the second tower at stride 8.
        edges: Channels of the second tower at stride 4.

    Attributes:
        widths: The arguments by name, which are saved with the weights.
    """

    def __init__(self, deep: int, middle: int, shallow: int, edges: int):
        super().__init__()
        self.widths = {"deep": deep, "middle": middle, "shallow": shallow, "edges": edges}
        c8, c16, c32 = LEVEL_CHANNELS
        self.deep = nn.Sequential(_conv(deep, c32, 1), ResidualBlock(c32), nn.Conv2d(c32, c16, 1))
        self.middle, self.middle_block = nn.Conv2d(middle, c16, 1), _conv(c16, c8)
        self.shallow, self.shallow_block = nn.Conv2d(shallow, c8, 1), ResidualBlock(c8)
        self.edges = nn.Conv2d(edges, FINE_CHANNELS, 1)
        self.colours = _conv3(12, FINE_CHANNELS)
        self.metric = nn.Conv2d(c8, METRIC_CHANNELS, 1)
        self.enter_photo, self.enter_maps = _conv3(c8, c8), _conv3(len(_COARSE_MAPS), c8)
        self.to16, self.down16 = _conv(c8, c16, stride=2), ResidualBlock(c16)
        self.to32, self.down32 = _conv(c16, c32, stride=2), ResidualBlock(c32)
        self.whole = nn.Linear(c32, c32)
        self.up16, self.block16 = _conv(c32 + c16, c16, 1), ResidualBlock(c16)
        self.up8, self.block8 = _conv(c16 + c8, c8, 1), ResidualBlock(c8)
        self.to_fine = _conv3(c8, 4 * FINE_CHANNELS)
        self.fine_photo, self.fine_maps, self.fine = (
            _conv3(channels, LAST_CHANNELS) for channels in (FINE_CHANNELS, len(_FINE_MAPS), FINE_CHANNELS)
        )
        self.last = _conv3(LAST_CHANNELS, 4)
        self.gain = nn.Parameter(torch.ones(()))

    def embed(self, maps: list[TowerMaps]) -> PhotoEmbedding:
        """Compute what depends on the photos alone.

        Args:
            maps: The features of B photos, on squares of the same size.

        Returns:
            Their embedding.
        """
        size = maps[0].size
        deep = torch.stack([torch.cat([m.first, m.second[32]]) for m in maps])
        x = F.interpolate(self.deep(deep), scale_factor=2.0, mode="bilinear")
        x = self.middle_block(F.relu(x + self.middle(torch.stack([m.second[16] for m in maps]))))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        x = self.shallow_block(F.relu(x + self.shallow(torch.stack([m.second[8] for m in maps]))))
        colours = F.pixel_unshuffle(torch.stack([m.pixels for m in maps]) - 0.5, 2)
        fine = F.relu(self.edges(torch.stack([m.second[4] for m in maps])) + self.colours(colours))
        assert x.shape[-1] == size // COARSE_STRIDE
        metric = F.normalize(self.metric(x).float(), dim=1)
        return PhotoEmbedding(self.enter_photo(x), self.fine_photo(fine), metric)

    def forward(self, embedding: PhotoEmbedding, prompts: PromptBatch) -> torch.Tensor:
        """Predict the masks of B objects.

        Args:
            embedding: The embedding of each object's photo.
            prompts: Clicks, box and current mask of each object.

        Returns:
            Logits (B, S/2, S/2) float32.
        """
        x8 = F.relu(embedding.coarse + self.enter_maps(_coarse_maps(embedding, prompts)))
        x16 = self.down16(self.to16(x8))
        x32 = self.down32(self.to32(x16))
        x32 = x32 + self.whole(x32.mean((2, 3)))[:, :, None, None]
        x = self.block16(self.up16(torch.cat([F.interpolate(x32, scale_factor=2.0), x16], 1)))
        x = self.block8(self.up8(torch.cat([F.interpolate(x, scale_factor=2.0), x8], 1)))
        x = F.relu(F.pixel_shuffle(self.to_fine(x), 2))
        x = F.relu(embedding.fine + self.fine(x) + self.fine_maps(_fine_maps(prompts, x.shape[-1])))
        scores = F.interpolate(prompts.kernel_scores[:, None], scale_factor=4.0, mode="bilinear")[:, 0]
        return F.pixel_shuffle(self.last(x), 2)[:, 0].float() + self.gain * scores

    def save(self, path: Path) -> None:
        """Write the weights in half precision, in safetensors format."""
        weights = {key: value.detach().cpu().half().contiguous() for key, value in self.state_dict().items()}
        save_file(weights, path, metadata={"format": "pt", "widths": json.dumps(self.widths)})

    @classmethod
    def load(cls, path: Path) -> ClickHead:
        """Read a head that `save` wrote.

        Args:
            path: The safetensors file.

        Returns:
            The head in float32, frozen and in evaluation mode.

        Raises:
            CheckpointError: The file is not a click head.
        """
        try:
            with safe_open(path, framework="pt") as file:
                head = cls(**json.loads(file.metadata()["widths"]))
                head.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path.name} is not a click head: {str(error)[:200]}") from error
        return head.eval().requires_grad_(False)


# The input maps, in the order in which the functions below stack them.
_COARSE_MAPS = (
    *("positive", "negative", "near positive", "near negative", "like positive", "like negative"),
    *("mask", "like mask", "has mask", "box", "has box", "kernel scores"),
)
_FINE_MAPS = ("positive", "negative", "mask", "box")


def _coarse_maps(embedding: PhotoEmbedding, prompts: PromptBatch) -> torch.Tensor:
    """The maps at stride 8: (B, 12, S/8, S/8)."""
    metric = embedding.metric
    side = metric.shape[-1]
    cells = prompts.points / COARSE_STRIDE  # (B, K, 2)
    distance = _distances(cells, side)  # (B, K, s, s)
    index = cells.long().clamp(0, side - 1)
    flat_index = (index[..., 1] * side + index[..., 0])[:, None].expand(-1, metric.shape[1], -1)
    clicked = metric.flatten(2).gather(2, flat_index)  # (B, d, K)
    similarity = torch.einsum("bdk,bdhw->bkhw", clicked, metric)
    disks, proximity, likeness = [], [], []
    for sign in (1, -1):
        same_sign = (prompts.signs == sign)[:, :, None, None]
        disks.append(torch.where(same_sign, distance < COARSE_DISK, False).any(1).float())
        proximity.append(torch.where(same_sign, torch.exp(-distance / CLICK_DECAY), 0).amax(1))
        likeness.append(torch.where(same_sign, similarity, -1).amax(1))
    mask = F.avg_pool2d(prompts.mask[:, None], COARSE_STRIDE // MASK_STRIDE)
    mask_vector = F.normalize((metric * mask).sum((2, 3), keepdim=True), dim=1)
    mask_likeness = (mask_vector * metric).sum(1)
    has_mask, has_box = (
        flag.float()[:, None, None].expand(-1, side, side) for flag in (prompts.has_mask, prompts.has_box)
    )
    box = _box_map(prompts, side, COARSE_STRIDE)
    maps = [*disks, *proximity, *likeness, mask[:, 0], mask_likeness, has_mask, box, has_box]
    return torch.stack([*maps, prompts.kernel_scores], 1)


def _fine_maps(prompts: PromptBatch, side: int) -> torch.Tensor:
    """The maps at stride 4: (B, 4, S/4, S/4)."""
    distance = _distances(prompts.points / FINE_STRIDE, side)
    disks = [
        torch.where((prompts.signs == sign)[:, :, None, None], distance < FINE_DISK, False).any(1).float()
        for sign in (1, -1)
    ]
    mask = F.avg_pool2d(prompts.mask[:, None], FINE_STRIDE // MASK_STRIDE)[:, 0]
    return torch.stack([*disks, mask, _box_map(prompts, side, FINE_STRIDE)], 1)


def _distances(points: torch.Tensor, side: int) -> torch.Tensor:
    """Distances from each of (B, K, 2) points to the cells' centres, in cells: (B, K, side, side)."""
    centres = torch.arange(side, device=points.device) + 0.5
    dx, dy = centres - points[..., :1], centres - points[..., 1:]  # (B, K, side)
    return (dx[:, :, None, :] ** 2 + dy[:, :, :, None] ** 2).sqrt()


def _box_map(prompts: PromptBatch, side: int, stride: int) -> torch.Tensor:
    """1 inside each box, 0 elsewhere: (B, side, side)."""
    centres = (torch.arange(side, device=prompts.box.device) + 0.5) * stride
    x0, y0, x1, y1 = (prompts.box[:, k : k + 1] for k in range(4))
    columns, rows = (centres >= x0) & (centres < x1), (centres >= y0) & (centres < y1)
    return (rows[:, :, None] & columns[:, None, :] & prompts.has_box[:, None, None]).float()


def _conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2), nn.ReLU())


def _conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
