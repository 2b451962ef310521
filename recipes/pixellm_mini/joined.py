"""One state of two: the language model of `teach`, and the pyramid that `ground` went on with.

python -m recipes.pixellm_mini.joined --language taught/training.pt --pyramid ground/training.pt --out FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

PYRAMID = ("model.mask_decoder.pyramid.", "model.mask_decoder.choose.")
WEIGHTS = "model.mask_decoder.weights"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for path in ("--language", "--pyramid", "--out"):
        parser.add_argument(path, type=Path, required=True)
    args = parser.parse_args()
    taught = torch.load(args.language, map_location="cpu", weights_only=True)["model"]
    grounded = torch.load(args.pyramid, map_location="cpu", weights_only=True)
    taught |= {key: value for key, value in grounded["model"].items() if key.startswith(PYRAMID)}
    taught[WEIGHTS] = torch.stack([taught[WEIGHTS][0], grounded["model"][WEIGHTS][1]])
    torch.save({"model": taught, "step": grounded.get("step", 0)}, args.out)


if __name__ == "__main__":
    main()
