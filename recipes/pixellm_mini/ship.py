"""Turn a training state into the folder that ships: self-contained, matrices in 8 bits.

python -m recipes.pixellm_mini.ship --base DIR --state training.pt --out pixellm_model/mini
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pixellm_model import checkpoint
from recipes.pixellm_mini.command import command


def ship(
    base: Path, state: Path, out: Path, image_size: int | None, edge_radius: int, part_share: float
) -> None:
    """Write the folder that ships."""
    model, tokenizer = checkpoint.load(base, dtype=torch.float32)
    saved = torch.load(state, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"], strict=False)
    if image_size:  # nothing in the weights depends on it
        model.config = replace(model.config, image_size=image_size)
    model.config = replace(model.config, edge_radius=edge_radius, part_share=part_share)
    checkpoint.save(model, tokenizer, out, int8=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB after {saved.get('step', 0)} steps")


if __name__ == "__main__":
    parser = command(__doc__, "--base", "--state", "--out")
    parser.add_argument("--image-size", type=int, help="other than the base's")
    parser.add_argument("--edge-radius", type=int, default=0, help="of the guided filter, in mask cells")
    parser.add_argument(
        "--part-share", type=float, default=0.0, help="of the largest part of a mask; larger ones are targets"
    )
    args = parser.parse_args()
    ship(args.base, args.state, args.out, args.image_size, args.edge_radius, args.part_share)
