"""Training states between the steps of the recipe: all weights but the towers', which never change."""

from __future__ import annotations

from pathlib import Path

import torch

from pixellm_model.model import PixelLM
from recipes.pixellm_mini.by_the_clock import learned_weights


def load_state(model: PixelLM, path: Path | None) -> None:
    """Take over what fits; a projector made for other towers does not, and starts anew."""
    if path is None:
        return
    known = model.state_dict()
    saved = torch.load(path, map_location="cpu", weights_only=True)["model"]
    fitting = {key: value for key, value in saved.items() if known[key].shape == value.shape}
    for key in saved.keys() - fitting.keys():
        print(f"not taken over, of another shape: {key}", flush=True)
    model.load_state_dict(fitting, strict=False)


def save_state(model: PixelLM, path: Path) -> None:
    """Write all weights but the towers'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": learned_weights(model)}, path)
