"""PixelLM: text-prompted, multi-target segmentation (Ren et al., CVPR 2024), on torch and transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pixellm_model.clicks.points import Click
from pixellm_model.errors import CheckpointError, ClickError, PromptError
from pixellm_model.request import Picture, Request

if TYPE_CHECKING:
    from pixellm_model.engine.answers import Segmentation, Target
    from pixellm_model.engine.prefix_cache import PrefixCache
    from pixellm_model.engine.segmenter import Segmenter

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Click",
    "ClickError",
    "Picture",
    "PrefixCache",
    "PromptError",
    "Request",
    "Segmentation",
    "Segmenter",
    "Target",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # Importing torch and transformers takes seconds; `from pixellm_model import PromptError` must not.
    if name in __all__:
        from pixellm_model.engine import segmenter

        return getattr(segmenter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
