"""The frozen vision tower: hidden states at two depths, padding masked out (specification section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from pixellm_model.efficientnet import EfficientNetLite0


def resize_position_table(table: torch.Tensor, grid: int) -> torch.Tensor:
    """Resize a CLIP position table (1+n*n, C) to (1+grid*grid, C) as the reference does.

    The reference takes the class row for the last one although CLIP keeps it first, so the class token
    gets an interpolated corner and every patch is shifted by one cell. Published weights were trained
    with that; anything else gives other features (section 3.2).
    """
    side = round((table.shape[0] - 1) ** 0.5)
    cells = table[:-1].float().T.reshape(1, -1, side, side)
    resized = F.interpolate(cells, (grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([resized[0].flatten(1).T, table[-1:].float()]).to(table.dtype)


class VisionTower(nn.Module):
    """A CLIP or DINOv2-shaped ViT that gives the hidden states at `select_layers`.

    Layers above the deepest selected one are not built: nothing reads them. A second tower's features
    are appended to the channels of every scale; it takes the pixels as they are and the ViT takes them
    scaled so that both grids are one. With `finer` its finer maps are given out too.
    """

    def __init__(
        self,
        config: CLIPVisionConfig | Dinov2Config,
        image_size: int,
        select_layers: tuple[int, ...],
        second: str | None = None,
        finer: bool = False,
    ):
        super().__init__()
        count = config.num_hidden_layers + 1  # hidden states, the embeddings included
        self.select_layers = tuple(layer % count for layer in select_layers)
        needed = max(self.select_layers)
        if isinstance(config, CLIPVisionConfig):
            # Built at the resized grid: the table is resized once, when a published tower is loaded.
            clip = CLIPVisionModel(_copy(config, image_size=image_size))
            self.embeddings, self.pre_layernorm = clip.embeddings, clip.pre_layrnorm
            self.layers, self.normalise = clip.encoder.layers[:needed], False
        else:
            dino = Dinov2Model(_copy(config))
            self.embeddings, self.pre_layernorm = dino.embeddings, nn.Identity()
            # DINOv2's own backbone normalises the states it gives out: they grow tenfold with depth. The
            # reference takes CLIP's as they are.
            self.layers, self.normalise = dino.encoder.layer[:needed], True
        self.patch_size = int(config.patch_size)
        self.second = EfficientNetLite0() if second == "efficientnet_lite0" else None
        self.finer = finer

    def forward(self, pixel_values: torch.Tensor, patch_mask: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, S, S) pixels and (B, grid, grid) bool mask -> per selected layer (B, grid*grid, C).

        With `finer` the second tower's (B, c, 2*grid, 2*grid) and (B, c, 4*grid, 4*grid) come after these.
        Padded patches are hidden from every query but still computed: the pixel decoder sees them.
        """
        scaled = pixel_values
        if self.second is not None:
            side = patch_mask.shape[-1] * self.patch_size
            scaled = F.interpolate(pixel_values, (side, side), mode="bilinear", antialias=True)
        hidden = self.pre_layernorm(self.embeddings(scaled))  # (B, 1+grid*grid, C)
        valid = F.pad(patch_mask.flatten(1), (1, 0), value=True)  # class token first
        bias = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
        bias.masked_fill_(~valid, torch.finfo(hidden.dtype).min)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, bias[:, None, None, :])
            states.append(hidden)
        chosen = [states[layer][:, 1:] for layer in self.select_layers]
        if self.normalise:
            chosen = [F.layer_norm(state, state.shape[-1:]) for state in chosen]
        if self.second is None:
            return chosen
        named, *finer = self.second.maps(pixel_values)  # (B, grid*grid, CHANNELS)
        joined = [torch.cat([state, named.to(state.dtype)], dim=-1) for state in chosen]
        return [*joined, *finer] if self.finer else joined


def _copy(config: CLIPVisionConfig | Dinov2Config, **changes: int) -> CLIPVisionConfig | Dinov2Config:
    copied = type(config).from_dict({**config.to_dict(), **changes})
    copied._attn_implementation = "sdpa"
    return copied
