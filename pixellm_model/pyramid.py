"""A pixel decoder for towers with finer maps: a pyramid over these in place of the paper's fine scale.

The paper's fine scale enlarges the tower's last maps: a thing smaller than one of their cells is lost. Here
it takes the maps that the second tower makes on its way, at a half and a quarter of the cell, and a target is
the product of its embedding with them: once the pyramid is there, a target costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pixellm_model.pixel_decoder import PixelDecoder, PromptEncoder

GROUPS = 8  # of the group norms
SHUT = 8.0  # by how much a presence of -1 lowers all logits


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity; normalised in between where `normed`."""

    def __init__(self, dim: int, normed: bool = True):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, dim) if normed else nn.Identity()
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = nn.Conv2d(dim, dim, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, h, w) -> (B, dim, h, w)."""
        return x + self.second(F.gelu(self.first(self.norm(x))))


class FeaturePyramid(nn.Module):
    """From coarse to fine, each level the one before it, enlarged, and a map of the towers.

    Args:
        widths: channels of the towers' maps, coarse to fine.
        dim: channels of the middle level; the coarse one has half as many again, the fine one half as many.
    """

    def __init__(self, widths: tuple[int, int, int], dim: int):
        super().__init__()
        deep, fine = 3 * dim // 2, dim // 2
        self.deep_in = nn.Conv2d(widths[0], deep, 1)
        self.deep = nn.Sequential(Residual(deep), Residual(deep))
        self.context = nn.Linear(deep, deep)
        self.middle_in = nn.Conv2d(widths[1], dim, 1)
        self.deep_down = nn.Conv2d(deep, dim, 1)
        self.middle = nn.Sequential(Residual(dim))
        self.fine_in = nn.Conv2d(widths[2], fine, 1)
        self.middle_down = nn.Conv2d(dim, fine, 1)
        self.fine = nn.Sequential(Residual(fine, normed=False))

    def forward(
        self, deep: torch.Tensor, middle: torch.Tensor, fine: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Make the levels of a batch of pictures.

        Args:
            deep: (B, widths[0], g, g); a cell without image is zero in the towers' input, not here.
            middle: (B, widths[1], 2g, 2g).
            fine: (B, widths[2], 4g, 4g); without it there is no fine level.

        Returns:
            The levels (B, 3/2 dim, g, g), (B, dim, 2g, 2g) and (B, dim/2, 4g, 4g).
        """
        x = self.deep(self.deep_in(deep))
        x = x + self.context(x.mean((2, 3)))[:, :, None, None]
        y = self.middle(self.middle_in(middle) + _enlarged(self.deep_down(x)))
        if fine is None:
            return x, y
        z = self.fine(self.fine_in(fine) + _enlarged(self.middle_down(y)))
        return x, y, z


class PyramidDecoder(PixelDecoder):
    """Target embeddings, a coarse map and a pyramid in, mask logits out.

    The coarse scale is the paper's. At the fine one the embedding gives a vector for the pyramid's middle and
    fine levels each, whose products with them are the logits, and two for its deep level, which say whether
    the target is there at all: that raises or lowers all of the logits, and where it rather is not, little is
    left of them.
    """

    def __init__(self, dim: int, mlp_dim: int, widths: tuple[int, int, int], pyramid_dim: int, hidden: int):
        super().__init__(dim, mlp_dim, scales=1)
        del self.upsample_2x, self.pe1  # the paper's fine scale
        self.pyramid = FeaturePyramid(widths, pyramid_dim)
        deep, fine = 3 * pyramid_dim // 2, pyramid_dim // 2
        self.parts = (pyramid_dim, fine, deep, deep, 1, 1)
        self.choose = nn.Linear(dim, sum(self.parts))
        nn.init.constant_(self.choose.bias[-2:], -2.0)
        self.weights = nn.Parameter(torch.tensor([0.2, 0.5]))  # of coarse logits and presence
        self.hints = Hints(deep, hidden)

    def presence(self, targets: torch.Tensor, deep: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Whether each target is in its image.

        Args:
            targets: fused embeddings (N, 2, dim).
            deep: the pyramid's deep level (B, 3/2 pyramid_dim, g, g).
            owner: (N,) index of each target's image in the batch.

        Returns:
            Logits (N,).
        """
        return self._presence(self.choose(targets[:, 1]).split(self.parts, dim=-1), deep, owner)

    def _presence(
        self, chosen: Sequence[torch.Tensor], deep: torch.Tensor, owner: torch.Tensor
    ) -> torch.Tensor:
        _, _, cell, whole, _, bias = chosen
        scale = deep.shape[1] ** -0.5
        cells = _products(cell, deep, owner).flatten(1).float() * scale  # (N, g*g)
        overall = (whole * deep.mean((2, 3))[owner]).sum(1).float() * scale
        return cells.logsumexp(1) - math.log(cells.shape[1]) + overall + bias[:, 0].float()

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
            sources: the coarse map (B, dim, g, g), then the pyramid's levels.
            prompt_encoder: holds the coarse scale's positions and the dense embedding.
            owner: (N,) index of each target's image in the batch.

        Returns:
            Combined logits (N, 4g, 4g), and the coarse logits (N, 2g, 2g) with those of the pyramid.
        """
        coarse, _ = super().forward(targets, sources[:1], prompt_encoder, owner)
        fine = self.fine_logits(targets, sources[1:], owner)
        combined = fine.float() + self.weights[0] * _enlarged(coarse.float()[:, None])[:, 0]
        missing = F.relu(-self.presence(targets, sources[1], owner))
        return combined - SHUT * missing[:, None, None], [coarse, fine]

    def fine_logits(
        self, targets: torch.Tensor, levels: Sequence[torch.Tensor], owner: torch.Tensor
    ) -> torch.Tensor:
        """The pyramid's part of the logits, presence included.

        Args:
            targets: fused embeddings (N, 2, dim).
            levels: the pyramid's levels.
            owner: (N,) index of each target's image in the batch.

        Returns:
            Logits (N, 4g, 4g), or (N, 2g, 2g) where `levels` lack the fine one.
        """
        deep, middle, *fine = levels
        chosen = self.choose(targets[:, 1]).split(self.parts, dim=-1)
        everywhere = chosen[4][:, 0] + self.weights[1] * self._presence(chosen, deep, owner)
        logits = _products(chosen[0], middle, owner).float() * middle.shape[1] ** -0.5
        for level in fine:
            at_fine = _products(chosen[1], level, owner).float() * level.shape[1] ** -0.5
            logits = _enlarged(logits[:, None])[:, 0] + at_fine
        return logits + everywhere.float()[:, None, None]


class Hints(nn.Module):
    """What the pyramid's deep level tells the language model about each image token; nothing at first."""

    def __init__(self, deep: int, hidden: int):
        super().__init__()
        self.project = nn.Linear(deep, hidden)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, deep: torch.Tensor) -> torch.Tensor:
        """(B, deep, g, g) -> (B, (g/2)**2, hidden)."""
        pooled = F.avg_pool2d(deep.float(), 2).to(deep.dtype)
        return self.project(pooled.flatten(2).transpose(1, 2))


def _enlarged(x: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, C, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _products(vectors: torch.Tensor, maps: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Vectors (N, C), each with its own image's map of (B, C, h, w) -> (N, h, w)."""
    order = owner.argsort(stable=True)
    counts = owner.bincount(minlength=len(maps)).tolist()
    found = [
        torch.einsum("nc,chw->nhw", mine, level)
        for mine, level in zip(vectors[order].split(counts), maps, strict=True)
    ]
    return torch.cat(found)[order.argsort()]
