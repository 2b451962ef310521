"""Ready labeling configurations, and the one reader of configurations."""

from label_config.labels import labels_asked, map_label
from label_config.reader import ConfigError, ImageControl, Label, LabelConfig, MaskControl, read_config

__all__ = [
    "ConfigError",
    "ImageControl",
    "Label",
    "LabelConfig",
    "MaskControl",
    "labels_asked",
    "map_label",
    "read_config",
]
