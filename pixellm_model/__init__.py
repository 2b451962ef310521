"""PixelLM: text-prompted, multi-target segmentation (Ren et al., CVPR 2024), on torch and transformers."""

from pixellm_model.config import CheckpointError, PixelLMConfig
from pixellm_model.segmenter import Segmentation, Segmenter, Target

__all__ = ["CheckpointError", "PixelLMConfig", "Segmentation", "Segmenter", "Target"]
