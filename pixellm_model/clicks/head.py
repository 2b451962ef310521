"""The click head: a small convolutional network that turns clicks, a box and a current mask into a mask.

It reads the frozen towers' features. What depends on the photo alone (`embed`) is computed once a photo;
what depends on the clicks (`forward`) is a small U-Net at strides 8 to 32 with a last step at stride 2.
Besides the usual maps of clicks, box and mask (Sofiiuk et al., "Reviving iterative training with mask
guidance", 2022), it is given how much each place looks like the places clicked on, and what the training-free
method proposes, to which it adds.
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
from pixellm_model.clicks.wanted import MASK_STRIDE
from pixellm_model.errors import CheckpointError

FILE = "click_head.safetensors"
COARSE, FINE = 8, 4  # strides of the maps that `embed` gives
REACH = 5.0  # cells of the coarse map over which a click is felt
LEVELS = (48, 64, 96)  # channels at strides 8, 16, 32
FINE_CHANNELS, LAST_CHANNELS, METRIC = 16, 24, 32


@dataclass(frozen=True)
class Prompts:
    """What B users want of their photos, on the padded square of S pixels.

    `points` (B, K, 2) holds x and y in pixels, `signs` (B, K) 1 for a positive, -1 for a negative click and
    0 for none; `mask` (B, S/2, S/2) is the current mask as 0 and 1, `has_mask` (B,) whether there is one;
    `box` (B, 4) is x0, y0, x1, y1 in pixels, `has_box` (B,) whether there is one; `belief` (B, S/8, S/8) is
    what the training-free method makes of it.
    """

    points: torch.Tensor
    signs: torch.Tensor
    mask: torch.Tensor
    has_mask: torch.Tensor
    box: torch.Tensor
    has_box: torch.Tensor
    belief: torch.Tensor


@dataclass(frozen=True)
class Embedded:
    """What `ClickHead.embed` makes of B photos: the photos' share of the first layer's output at stride 8,
    `coarse` (B, C, S/8, S/8), and at stride 4, `fine` (B, c, S/4, S/4); and unit vectors `metric`
    (B, d, S/8, S/8), alike where the photo is of one thing.
    """

    coarse: torch.Tensor
    fine: torch.Tensor
    metric: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.coarse.nbytes + self.fine.nbytes + self.metric.nbytes

    def repeated(self, times: int) -> Embedded:
        """Each photo `times` times, one after the other."""
        return Embedded(*(m.repeat_interleave(times, 0) for m in (self.coarse, self.fine, self.metric)))


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added; at first they add nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv3(channels, channels)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(self.first(x)))


class ClickHead(nn.Module):
    """`deep` counts the channels of the first tower's layers together with the second tower's at stride 32,
    `middle`, `shallow` and `edges` those of the second tower at strides 16, 8 and 4.

    There is no normalisation inside: the features come normalised, and blocks start as the identity.
    """

    def __init__(self, deep: int, middle: int, shallow: int, edges: int):
        super().__init__()
        self.widths = {"deep": deep, "middle": middle, "shallow": shallow, "edges": edges}
        c8, c16, c32 = LEVELS
        self.deep = nn.Sequential(_conv(deep, c32, 1), Block(c32), nn.Conv2d(c32, c16, 1))
        self.middle, self.middle_block = nn.Conv2d(middle, c16, 1), _conv(c16, c8)
        self.shallow, self.shallow_block = nn.Conv2d(shallow, c8, 1), Block(c8)
        self.edges = nn.Conv2d(edges, FINE_CHANNELS, 1)
        self.colours = _conv3(12, FINE_CHANNELS)
        self.metric = nn.Conv2d(c8, METRIC, 1)
        self.enter_photo, self.enter_maps = _conv3(c8, c8), _conv3(len(_COARSE), c8)
        self.to16, self.down16 = _conv(c8, c16, stride=2), Block(c16)
        self.to32, self.down32 = _conv(c16, c32, stride=2), Block(c32)
        self.whole = nn.Linear(c32, c32)
        self.up16, self.block16 = _conv(c32 + c16, c16, 1), Block(c16)
        self.up8, self.block8 = _conv(c16 + c8, c8, 1), Block(c8)
        self.to_fine = _conv3(c8, 4 * FINE_CHANNELS)
        self.fine_photo, self.fine_maps, self.fine = (
            _conv3(channels, LAST_CHANNELS) for channels in (FINE_CHANNELS, len(_FINE), FINE_CHANNELS)
        )
        self.last = _conv3(LAST_CHANNELS, 4)
        self.gain = nn.Parameter(torch.ones(()))

    def embed(self, maps: list[TowerMaps]) -> Embedded:
        """What depends on the photos alone."""
        size = maps[0].size
        deep = torch.stack([torch.cat([m.first, m.second[32]]) for m in maps])
        x = F.interpolate(self.deep(deep), scale_factor=2.0, mode="bilinear")
        x = self.middle_block(F.relu(x + self.middle(torch.stack([m.second[16] for m in maps]))))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        x = self.shallow_block(F.relu(x + self.shallow(torch.stack([m.second[8] for m in maps]))))
        colours = F.pixel_unshuffle(torch.stack([m.pixels for m in maps]) - 0.5, 2)
        fine = F.relu(self.edges(torch.stack([m.second[4] for m in maps])) + self.colours(colours))
        assert x.shape[-1] == size // COARSE
        metric = F.normalize(self.metric(x).float(), dim=1)
        return Embedded(self.enter_photo(x), self.fine_photo(fine), metric)

    def forward(self, embedded: Embedded, prompts: Prompts) -> torch.Tensor:
        """Logits (B, S/2, S/2) of the masks that are wanted."""
        x8 = F.relu(embedded.coarse + self.enter_maps(_coarse_maps(embedded, prompts)))
        x16 = self.down16(self.to16(x8))
        x32 = self.down32(self.to32(x16))
        x32 = x32 + self.whole(x32.mean((2, 3)))[:, :, None, None]
        x = self.block16(self.up16(torch.cat([F.interpolate(x32, scale_factor=2.0), x16], 1)))
        x = self.block8(self.up8(torch.cat([F.interpolate(x, scale_factor=2.0), x8], 1)))
        x = F.relu(F.pixel_shuffle(self.to_fine(x), 2))
        x = F.relu(embedded.fine + self.fine(x) + self.fine_maps(_fine_maps(prompts, x.shape[-1])))
        proposed = F.interpolate(prompts.belief[:, None], scale_factor=4.0, mode="bilinear")[:, 0]
        return F.pixel_shuffle(self.last(x), 2)[:, 0].float() + self.gain * proposed

    def save(self, path: Path) -> None:
        """Write the weights in half precision."""
        weights = {key: value.detach().cpu().half().contiguous() for key, value in self.state_dict().items()}
        save_file(weights, path, metadata={"format": "pt", "widths": json.dumps(self.widths)})

    @classmethod
    def load(cls, path: Path) -> ClickHead:
        """Read what `save` wrote. Raises CheckpointError when the file is no click head."""
        try:
            with safe_open(path, framework="pt") as file:
                head = cls(**json.loads(file.metadata()["widths"]))
                head.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path.name} is not a click head: {str(error)[:200]}") from error
        return head.eval().requires_grad_(False)


# The maps that tell the network of clicks, box and mask; each function stacks them in this order.
_COARSE = (
    *("positive", "negative", "near positive", "near negative", "like positive", "like negative"),
    *("mask", "like mask", "has mask", "box", "has box", "belief"),
)
_FINE = ("positive", "negative", "mask", "box")


def _coarse_maps(embedded: Embedded, prompts: Prompts) -> torch.Tensor:
    metric = embedded.metric
    side = metric.shape[-1]
    cells = prompts.points / COARSE  # (B, K, 2)
    distance = _distances(cells, side)  # (B, K, s, s)
    index = cells.long().clamp(0, side - 1)
    flat = (index[..., 1] * side + index[..., 0])[:, None].expand(-1, metric.shape[1], -1)
    clicked = metric.flatten(2).gather(2, flat)  # (B, d, K)
    alike = torch.einsum("bdk,bdhw->bkhw", clicked, metric)
    mask = F.avg_pool2d(prompts.mask[:, None], COARSE // MASK_STRIDE)
    inside = (metric * mask).sum((2, 3), keepdim=True)
    maps = []
    for sign in (1, -1):
        mine = (prompts.signs == sign)[:, :, None, None]
        maps.append(torch.where(mine, distance < 1.5, False).any(1).float())
        maps.append(torch.where(mine, torch.exp(-distance / REACH), 0).amax(1))
        maps.append(torch.where(mine, alike, -1).amax(1))
    has_mask, has_box = (
        flag.float()[:, None, None].expand(-1, side, side) for flag in (prompts.has_mask, prompts.has_box)
    )
    like_mask = (F.normalize(inside, dim=1) * metric).sum(1)
    ordered = [maps[0], maps[3], maps[1], maps[4], maps[2], maps[5], mask[:, 0], like_mask, has_mask]
    return torch.stack([*ordered, _box_map(prompts, side, COARSE), has_box, prompts.belief], 1)


def _fine_maps(prompts: Prompts, side: int) -> torch.Tensor:
    distance = _distances(prompts.points / FINE, side)
    near = [
        torch.where((prompts.signs == sign)[:, :, None, None], distance < 2.0, False).any(1).float()
        for sign in (1, -1)
    ]
    mask = F.avg_pool2d(prompts.mask[:, None], FINE // MASK_STRIDE)[:, 0]
    return torch.stack([*near, mask, _box_map(prompts, side, FINE)], 1)


def _distances(cells: torch.Tensor, side: int) -> torch.Tensor:
    """From each of (B, K, 2) places to the cells' centres: (B, K, side, side)."""
    centres = torch.arange(side, device=cells.device) + 0.5
    dx, dy = centres - cells[..., :1], centres - cells[..., 1:]  # (B, K, side)
    return (dx[:, :, None, :] ** 2 + dy[:, :, :, None] ** 2).sqrt()


def _box_map(prompts: Prompts, side: int, stride: int) -> torch.Tensor:
    """1 inside each box, 0 elsewhere: (B, side, side)."""
    centres = (torch.arange(side, device=prompts.box.device) + 0.5) * stride
    x0, y0, x1, y1 = (prompts.box[:, k : k + 1] for k in range(4))
    columns, rows = (centres >= x0) & (centres < x1), (centres >= y0) & (centres < y1)
    return (rows[:, :, None] & columns[:, None, :] & prompts.has_box[:, None, None]).float()


def _conv(into: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, kernel, stride, kernel // 2), nn.ReLU())


def _conv3(into: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, padding=1)
