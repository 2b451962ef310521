"""PixelLM: a LLaMA decoder that names targets, and a pixel decoder that draws them (paper, figure 2).

Parameter names are the published checkpoint's, so that it loads as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaModel

from pixellm_model.config import PixelLMConfig
from pixellm_model.efficientnet import FINER
from pixellm_model.pixel_decoder import PixelDecoder, PromptEncoder, channel_norm
from pixellm_model.preprocess import ProcessedImage, patch_mask
from pixellm_model.pyramid import PyramidDecoder
from pixellm_model.vision import VisionTower

IMAGE_ID = -200  # stands for the image in a list of token ids; replaced by its vectors


@dataclass(frozen=True)
class ImageFeatures:
    """What the model knows of B images, whatever is asked about them.

    `features`: per scale (B, g*g, C) tower states; `tokens` (B, t*t, D) for the language model with
    `token_mask` (B, t*t) bool; `maps` (2, B, dim, g, g) for the pixel decoder. With a pyramid, `maps` is
    (1, B, dim, g, g) and `levels` are what the pyramid made, as `FeaturePyramid` returns it.
    """

    features: list[torch.Tensor]
    pooled: torch.Tensor
    tokens: torch.Tensor
    token_mask: torch.Tensor
    maps: torch.Tensor
    levels: tuple[torch.Tensor, ...] = ()


class LanguageModel(LlamaModel):
    """The LLaMA decoder with the vision parts as direct children, as the published names have them."""

    def __init__(self, config: PixelLMConfig):
        llama = LlamaConfig.from_dict(config.llama.to_dict())
        llama._attn_implementation = "sdpa"
        super().__init__(llama)
        assert config.tower is not None
        hidden, dim, width = llama.hidden_size, config.decoder_dim, config.feature_width
        self.vision_tower = VisionTower(
            config.tower, config.image_size, config.select_layers, config.second_tower, config.pyramid_dim > 0
        )
        self.mm_projector = _projector(width, hidden, config.projector_ratio)
        self.out_mm_projector = _projector(width, hidden, config.projector_ratio)
        self.image_feature_neck = nn.Sequential(
            nn.Conv2d(hidden, dim, 1, bias=False),
            channel_norm(dim),
            nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            channel_norm(dim),
        )
        self.text_hidden_fcs = nn.ModuleList(
            [nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim))]
        )
        self.prompt_encoder = PromptEncoder(dim)
        self.mask_decoder: PixelDecoder = (
            PixelDecoder(dim, config.decoder_mlp_dim, len(config.select_layers))
            if not config.pyramid_dim
            else PyramidDecoder(
                dim,
                config.decoder_mlp_dim,
                # The second tower's features are in both scales, and taken once.
                (width + config.tower.hidden_size, *FINER),
                config.pyramid_dim,
                hidden,
            )
        )


class PixelLM(nn.Module):
    """The whole model. Its methods are the stages; `generate` and `Segmenter` string them together."""

    def __init__(self, config: PixelLMConfig):
        super().__init__()
        self.config = config
        self.model = LanguageModel(config)
        self.lm_head = nn.Linear(config.llama.hidden_size, config.llama.vocab_size, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def encode_image(self, images: list[ProcessedImage]) -> ImageFeatures:
        """Run the tower and everything that depends on the images alone."""
        return self.project_features(
            self.tower_features(images), self.patch_masks([i.resized for i in images])
        )

    def tower_features(self, images: list[ProcessedImage]) -> list[torch.Tensor]:
        """The tower's states per scale, (B, g*g, C), and what finer maps a pyramid takes (`VisionTower`)."""
        pixels = torch.stack([image.pixel_values for image in images]).to(self.device, self.dtype)
        return self.model.vision_tower(pixels, self.patch_masks([image.resized for image in images]))

    def patch_masks(self, resized: list[tuple[int, int]]) -> torch.Tensor:
        """(B, g, g) bool: the cells that hold image, not padding."""
        size, patch = self.config.image_size, self.config.patch_size
        return torch.stack([patch_mask(shape, size, patch) for shape in resized]).to(self.device)

    def project_features(self, features: list[torch.Tensor], masks: torch.Tensor) -> ImageFeatures:
        """What `tower_features` gives and patch masks (B, g, g) -> ImageFeatures."""
        grid = self.config.grid
        decoder = self.model.mask_decoder
        scales = len(self.config.select_layers)
        features, finer = features[:scales], features[scales:]
        drawn = features[:1] if finer else features
        cells = features[0].transpose(1, 2).unflatten(2, (grid, grid))  # (B, C, g, g)
        pooled = F.avg_pool2d(cells.float(), 2).to(cells.dtype).flatten(2).transpose(1, 2)  # (B, t*t, C)
        projected = torch.stack([self.model.out_mm_projector(f) for f in drawn])  # (2, B, g*g, D)
        maps = projected.flatten(0, 1).transpose(1, 2).unflatten(2, (grid, grid))
        maps = self.model.image_feature_neck(maps).unflatten(0, (len(drawn), -1))
        tokens = self.model.mm_projector(pooled)
        levels: tuple[torch.Tensor, ...] = ()
        if isinstance(decoder, PyramidDecoder):
            levels = self.pyramid_levels([*features, *finer])
            tokens = tokens + decoder.hints(levels[0])
        return ImageFeatures(features, pooled, tokens, masks[:, ::2, ::2].flatten(1), maps, levels)

    def pyramid_levels(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What `tower_features` gives -> the pyramid's levels; see FeaturePyramid.forward."""
        assert self.config.tower is not None and isinstance(self.model.mask_decoder, PyramidDecoder)
        grid, scales = self.config.grid, len(self.config.select_layers)
        width = self.config.tower.hidden_size
        deep = torch.cat([features[0], *(f[..., :width] for f in features[1:scales])], dim=-1)
        return self.model.mask_decoder.pyramid(
            deep.transpose(1, 2).unflatten(2, (grid, grid)), *features[scales:]
        )

    def sources(self, image: ImageFeatures) -> list[torch.Tensor]:
        """What decoding starts from, whatever the target; see PixelDecoder.sources and PyramidDecoder."""
        if image.levels:
            return [image.maps[0], *image.levels]
        return self.model.mask_decoder.sources(image.maps)

    def embed(self, ids: list[int], image_tokens: torch.Tensor) -> torch.Tensor:
        """Token ids with one IMAGE_ID and its vectors (t*t, D) -> (len(ids) - 1 + t*t, D)."""
        at = ids.index(IMAGE_ID)
        table = self.model.embed_tokens
        before = table(torch.tensor(ids[:at], device=self.device))
        after = table(torch.tensor(ids[at + 1 :], dtype=torch.long, device=self.device))
        return torch.cat([before, image_tokens.to(before.dtype), after])

    def target_embeddings(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states that predict codebook tokens (n, D) -> token embeddings (n, dim)."""
        return self.model.text_hidden_fcs[0](hidden)

    def decode_targets(
        self, targets: torch.Tensor, maps: torch.Tensor, owner: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Fused embeddings (N, 2, dim) and maps (2, B, dim, g, g) -> low-resolution logits.

        `owner` (N,) is the image of each target; the results are those of `PixelDecoder.forward`.
        """
        return self.decode_from(targets, self.model.mask_decoder.sources(maps), owner)

    def decode_from(
        self, targets: torch.Tensor, sources: Sequence[torch.Tensor], owner: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `decode_targets`, from the images' `PixelDecoder.sources`."""
        return self.model.mask_decoder(targets, sources, self.model.prompt_encoder, owner)


def _projector(width: int, hidden: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, ratio * hidden), nn.GELU(), nn.Linear(ratio * hidden, hidden))
