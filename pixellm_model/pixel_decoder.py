"""The light pixel decoder: two scales, coarse to fine (specification section 8).

The two-way transformers are SAM's, from transformers. What SAM does not have is written here: one
transformer per scale, the coarse logits gating the fine map, and a level embedding on the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamLayerNorm, SamTwoWayTransformer

MASK_TOKENS = 4  # SAM's; only the first is read, all four take part in the attention


class FourierPosition(nn.Module):
    """Random Fourier features of cell centres; the matrix is part of the checkpoint."""

    positional_encoding_gaussian_matrix: torch.Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, side: int) -> torch.Tensor:
        """Encoding of a (side, side) grid: (1, dim, side, side), in the matrix's own dtype."""
        matrix = self.positional_encoding_gaussian_matrix
        centres = (torch.ones(side, device=matrix.device, dtype=matrix.dtype).cumsum(0) - 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        phase = 2 * math.pi * ((2 * torch.stack([x, y], dim=-1) - 1) @ matrix)  # (side, side, dim/2)
        return torch.cat([phase.sin(), phase.cos()], dim=-1).permute(2, 0, 1)[None]


class PromptEncoder(nn.Module):
    """What is left of SAM's prompt encoder: scale 0's positions and the 'no mask' embedding."""

    def __init__(self, dim: int):
        super().__init__()
        self.pe_layer = FourierPosition(dim)
        self.no_mask_embed = nn.Embedding(1, dim)


class MLP(nn.Module):
    """Three linear layers with ReLU between; SAM's hypernetwork head."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_dim)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def channel_norm(dim: int) -> SamLayerNorm:
    """LayerNorm over the channels of (B, C, h, w)."""
    return SamLayerNorm(dim, eps=1e-6, data_format="channels_first")


class PixelDecoder(nn.Module):
    """Target embeddings and image maps in, mask logits out."""

    def __init__(self, dim: int, mlp_dim: int, scales: int = 2):
        super().__init__()
        config = SamMaskDecoderConfig(
            hidden_size=dim,
            mlp_dim=mlp_dim,
            hidden_act="relu",
            num_hidden_layers=2,
            num_attention_heads=8,
            attention_downsample_rate=2,
            layer_norm_eps=1e-5,
        )
        config._attn_implementation = "sdpa"
        self.transformer = nn.ModuleList([SamTwoWayTransformer(config) for _ in range(scales)])
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, dim)
        self.level_embed = nn.Embedding(scales, dim)
        self.upsample_2x = nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, 2), channel_norm(dim), nn.GELU())
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 8, 2, 2), channel_norm(dim // 8), nn.GELU()
        )
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(dim, dim // 8)])
        self.pe1 = FourierPosition(dim)

    def sources(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """The decoder's input per scale, which does not depend on the targets.

        Args:
            maps: (2, B, dim, g, g), scale 0 first.

        Returns:
            (B, dim, g, g) and (B, dim, 2g, 2g).
        """
        return [maps[0], *(self.upsample_2x(level) for level in maps[1:])]

    def forward(
        self,
        targets: torch.Tensor,
        sources: Sequence[torch.Tensor],
        prompt_encoder: PromptEncoder,
        owner: torch.Tensor,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Decode all targets in one call.

        Args:
            targets: fused embeddings (N, 2, dim).
            sources: what `sources` made of B images' maps.
            prompt_encoder: holds scale 0's positions and the dense embedding.
            owner: (N,) index of each target's image in the batch.

        Returns:
            The combined logits (N, 4g, 4g), and the logits of each scale, (N, 2g, 2g) and (N, 4g, 4g).
        """
        dense = prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        fixed = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (5, dim)
        logits: list[torch.Tensor] = []
        for level, transformer in enumerate(self.transformer):
            source = sources[level][owner]  # (N, dim, s, s)
            if level == 0:
                position = prompt_encoder.pe_layer(source.shape[-1])
            else:
                source = source * (logits[-1].unsqueeze(1).sigmoid() + 1)
                position = self.pe1(source.shape[-1])
            tokens = torch.cat([fixed.expand(len(targets), -1, -1), targets[:, level : level + 1]], dim=1)
            tokens = tokens + self.level_embed.weight[level]  # (N, 6, dim)
            queries, keys = transformer(
                point_embeddings=tokens.unsqueeze(1),
                image_embeddings=source + dense,
                image_positional_embeddings=position.expand(len(targets), -1, -1, -1),
                attention_similarity=None,
            )
            pixels = keys[:, 0].transpose(1, 2).unflatten(2, source.shape[-2:])  # (N, dim, s, s)
            upscaled = self.output_upscaling(pixels)  # (N, dim/8, 2s, 2s)
            mask_token = self.output_hypernetworks_mlps[0](queries[:, 0, 1])  # (N, dim/8)
            logits.append(torch.einsum("nc,nchw->nhw", mask_token, upscaled))
        return self._combine(logits), logits

    @staticmethod
    def _combine(logits: list[torch.Tensor]) -> torch.Tensor:
        size = logits[-1].shape[-2:]
        weight = 1 / len(logits)  # a constant in the reference, never learned (section 1.3)
        scaled = [
            F.interpolate(m.float().unsqueeze(1), size, mode="bilinear", align_corners=False) for m in logits
        ]
        return sum((weight * m[:, 0] for m in scaled), torch.zeros((), device=logits[0].device))
