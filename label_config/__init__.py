"""Label Studio labeling configurations: templates, a reader, and the mapping from phrases to labels."""

from label_config.config import (
    NOTHING_ELSE,
    ConfigError,
    ImageControl,
    Label,
    LabelConfig,
    ShapeControl,
    ShapeKind,
)
from label_config.labels import CATCH_ALL, labels_in_prompt, map_label
from label_config.reader import read_config

__all__ = [
    "CATCH_ALL",
    "NOTHING_ELSE",
    "ConfigError",
    "ImageControl",
    "Label",
    "LabelConfig",
    "ShapeControl",
    "ShapeKind",
    "labels_in_prompt",
    "map_label",
    "read_config",
]
