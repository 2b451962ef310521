"""What a PixelLM checkpoint is made of: one frozen description, read from either layout's config.json.

Two layouts are known. The published one (`model_type` "llava") is flat, names its CLIP tower and says
nothing about the codebook; our own (`model_type` "pixellm") is the same plus everything needed to stand
alone. `PixelLMConfig.from_dict` reads both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from transformers import CLIPVisionConfig, Dinov2Config, LlamaConfig

from pixellm_model.calibration import KEY as CALIBRATION
from pixellm_model.calibration import ScoreCalibration
from pixellm_model.errors import CheckpointError

LLAVA_V1_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
TOWER_CONFIGS = {"clip_vision_model": CLIPVisionConfig, "dinov2": Dinov2Config}
SECOND_TOWERS = {"efficientnet_lite0": (32, 432)}  # the pixels of a cell, the channels of its features
LLAMA_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "attention_bias", "mlp_bias"),
)
# The reference keeps these constants whatever its config says (specification, section 1.4).
PUBLISHED_IMAGE_SIZE = 448
PUBLISHED_LAYERS = (-2, -11)


@dataclass(frozen=True)
class PixelLMConfig:
    """Shapes and constants of one PixelLM.

    `select_layers` are the tower's hidden states (0 = embeddings) that feed scale 0 and scale 1;
    `tokens_per_scale` codebook tokens describe a target at each of them. `second_tower` names a tower whose
    features join the first one's (SECOND_TOWERS); `pyramid_dim` is how many channels the pyramid over its
    finer maps has, 0 for the paper's pixel decoder without one (`pyramid.py`). `edge_radius` is how many
    cells of the masks a guided filter looks around in for the picture's edges, 0 for none (`edges.py`).
    `part_share` is how large a part of a mask has to be, as share of the largest, to be a target of its own;
    0 takes no mask apart (`instances.py`).
    """

    llama: LlamaConfig
    tower: CLIPVisionConfig | Dinov2Config | None
    name: str = "pixellm"
    vision_tower: str | None = None
    second_tower: str | None = None
    pyramid_dim: int = 0
    edge_radius: int = 0
    part_share: float = 0.0
    image_size: int = PUBLISHED_IMAGE_SIZE
    select_layers: tuple[int, int] = PUBLISHED_LAYERS
    tokens_per_scale: int = 3
    decoder_dim: int = 256
    decoder_mlp_dim: int = 2048
    projector_ratio: int = 2
    system_prompt: str = LLAVA_V1_SYSTEM
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def codebook_size(self) -> int:
        """Codebook tokens per target: scales times tokens per scale."""
        return len(self.select_layers) * self.tokens_per_scale

    @property
    def patch_size(self) -> int:
        """Pixels of the input along one side of a grid cell."""
        assert self.tower is not None
        return SECOND_TOWERS[self.second_tower][0] if self.second_tower else int(self.tower.patch_size)

    @property
    def grid(self) -> int:
        """Cells along one side of the input."""
        return self.image_size // self.patch_size

    @property
    def feature_width(self) -> int:
        """Channels of the towers' features at each scale."""
        assert self.tower is not None
        return int(self.tower.hidden_size) + (SECOND_TOWERS[self.second_tower][1] if self.second_tower else 0)

    @property
    def token_grid(self) -> int:
        """Image tokens of the language model along one side: 2x2 patches are pooled into one."""
        return self.grid // 2

    @property
    def image_tokens(self) -> int:
        """Number of image tokens of the language model."""
        return self.token_grid**2

    @property
    def score_calibration(self) -> ScoreCalibration | None:
        """What raw scores are worth, if it was measured."""
        return ScoreCalibration.from_extra(self.extra)

    def with_raw_scores(self) -> PixelLMConfig:
        """Return the same without a calibration of scores, to measure one."""
        return replace(self, extra={key: value for key, value in self.extra.items() if key != CALIBRATION})

    @classmethod
    def from_dict(
        cls, raw: dict[str, Any], tower: CLIPVisionConfig | Dinov2Config | None = None
    ) -> PixelLMConfig:
        """Read a config.json of either layout; `tower` is the tower's own config in the published one.

        Raises CheckpointError when the folder holds another kind of model.
        """
        kind = raw.get("model_type")
        if kind not in ("llava", "pixellm"):
            raise CheckpointError(f"config.json has model_type {kind!r}; a PixelLM has 'llava' or 'pixellm'.")
        missing = [key for key in ("vocab_size", "hidden_size", "num_hidden_layers") if key not in raw]
        if missing:
            raise CheckpointError(f"config.json lacks {', '.join(missing)}; it is not a PixelLM's.")
        llama = LlamaConfig(
            **{key: raw[key] for key in LLAMA_FIELDS if raw.get(key) is not None},
            rope_parameters=_rope_parameters(raw),
        )
        shared = {"llama": llama, "vision_tower": raw.get("vision_tower") or raw.get("mm_vision_tower")}
        if kind == "llava":
            return cls(
                tower=tower,
                name=str(raw.get("_name_or_path") or "pixellm"),
                decoder_dim=int(raw.get("out_dim", 256)),
                projector_ratio=int(raw.get("mm_projector_hidden_dim", 2)),
                **shared,
            )
        second = raw.get("second_tower")
        if second is not None and second not in SECOND_TOWERS:
            raise CheckpointError(
                f"config.json's second_tower {second!r} is not one of {sorted(SECOND_TOWERS)}."
            )
        if raw.get("pyramid_dim") and second is None:
            raise CheckpointError(
                "config.json has a pyramid_dim, but no second_tower whose maps it would take."
            )
        extra = raw.get("extra", {})
        ScoreCalibration.from_extra(extra)  # what is wrong with it is told now, not at the first prompt
        try:
            tower_raw = dict(raw["tower"])
            tower = TOWER_CONFIGS[tower_raw.pop("model_type")](**tower_raw)
        except KeyError as missing_key:
            raise CheckpointError(f"config.json lacks or does not know the tower's {missing_key}.") from None
        return cls(
            tower=tower,
            second_tower=second,
            pyramid_dim=raw.get("pyramid_dim", 0),
            edge_radius=raw.get("edge_radius", 0),
            part_share=raw.get("part_share", 0.0),
            name=raw["name"],
            image_size=raw["image_size"],
            select_layers=tuple(raw["select_layers"]),
            tokens_per_scale=raw["tokens_per_scale"],
            decoder_dim=raw["decoder_dim"],
            decoder_mlp_dim=raw["decoder_mlp_dim"],
            projector_ratio=raw["projector_ratio"],
            system_prompt=raw["system_prompt"],
            extra=extra,
            **shared,
        )

    def to_dict(self) -> dict[str, Any]:
        """The self-contained layout's config.json."""
        assert self.tower is not None
        llama = self.llama.to_dict()
        return {
            "model_type": "pixellm",
            "architectures": ["PixelLM"],
            "name": self.name,
            **{key: llama[key] for key in LLAMA_FIELDS if llama.get(key) is not None},
            "rope_parameters": dict(self.llama.rope_parameters),
            "tower": {
                "model_type": self.tower.model_type,
                **{k: v for k, v in self.tower.to_diff_dict().items() if k not in _TOWER_NOISE},
            },
            "second_tower": self.second_tower,
            **{key: value for key in PYRAMID_KEYS if (value := getattr(self, key))},
            "image_size": self.image_size,
            "select_layers": list(self.select_layers),
            "tokens_per_scale": self.tokens_per_scale,
            "decoder_dim": self.decoder_dim,
            "decoder_mlp_dim": self.decoder_mlp_dim,
            "projector_ratio": self.projector_ratio,
            "system_prompt": self.system_prompt,
            "extra": self.extra,
        }


# What transformers adds to a config that says nothing about the tower's shape.
PYRAMID_KEYS = ("pyramid_dim", "edge_radius", "part_share")  # written only where a checkpoint has them
_TOWER_NOISE = {
    *("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path"),
    *("out_features", "out_indices", "stage_names"),
}


def _rope_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    if raw.get("rope_parameters"):
        return dict(raw["rope_parameters"])
    scaling = dict(raw.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    return {"rope_type": kind, "rope_theta": float(raw.get("rope_theta", 10000.0)), **scaling}
