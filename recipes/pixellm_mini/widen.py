"""Give a mini its pyramid: the same weights wherever they fit, new ones for what it did not have.

    python -m recipes.pixellm_mini.widen --model pixellm_model/mini --out DIR --image-size 768

The paper's fine scale goes, and the pyramid comes in its place (`pixellm_model/pyramid.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pixellm_model import checkpoint
from pixellm_model.model import PixelLM
from recipes.pixellm_mini.command import command

LEVELS = "model.mask_decoder.level_embed.weight"


def widen(source: Path, out: Path, image_size: int, dim: int) -> None:
    """Write to `out` the checkpoint of `source` with a new pyramid of `dim` channels."""
    torch.manual_seed(0)
    narrow, tokenizer = checkpoint.load(source, dtype=torch.float32)
    model = PixelLM(replace(narrow.config, pyramid_dim=dim, image_size=image_size))
    weights = narrow.state_dict()
    weights[LEVELS] = weights[LEVELS][:1]
    known = model.state_dict()
    model.load_state_dict({key: value for key, value in weights.items() if key in known}, strict=False)
    checkpoint.save(model, tokenizer, out)


def main() -> None:
    """Run the command line."""
    parser = command(__doc__, "--model", "--out")
    parser.add_argument("--image-size", type=int, default=768)
    parser.add_argument("--dim", type=int, default=128)
    args = parser.parse_args()
    widen(args.model, args.out, args.image_size, args.dim)


if __name__ == "__main__":
    main()
