"""Move what counts as there, and what counts as inside: two numbers, chosen on photos kept aside.

    python -m recipes.pixellm_mini.calibrate --state training.pt --out FILE --presence -4 --logit 1

Targets whose presence is below `--presence` count as missing from now on, and pixels whose logit is above
minus `--logit` as inside. A presence that training has made very sure of itself makes masks spill over their
neighbours; a smaller `--presence-weight` takes that back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

BIAS, WEIGHTS = "model.mask_decoder.choose.bias", "model.mask_decoder.weights"


def calibrate(
    weights: dict[str, torch.Tensor],
    presence: float,
    logit: float,
    coarse: float | None = None,
    presence_weight: float | None = None,
) -> None:
    """Change the two biases of `PyramidDecoder.choose`, and its two weights if given, in place."""
    given = (coarse, presence_weight)
    kept = weights[WEIGHTS]
    weights[WEIGHTS] = torch.stack(
        [old if new is None else kept.new_tensor(new) for old, new in zip(kept, given, strict=True)]
    )
    bias = weights[BIAS].clone()
    bias[-1] -= presence
    bias[-2] += logit + weights[WEIGHTS][1] * presence
    weights[BIAS] = bias


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presence", type=float, default=0.0)
    parser.add_argument("--logit", type=float, default=0.0)
    parser.add_argument(
        "--coarse", type=float, help="the weight of the coarse logits; as it is, if not given"
    )
    parser.add_argument("--presence-weight", type=float, help="the weight of the presence, likewise")
    args = parser.parse_args()
    state = torch.load(args.state, map_location="cpu", weights_only=True)
    calibrate(state["model"], args.presence, args.logit, args.coarse, args.presence_weight)
    torch.save({"model": state["model"], "step": state.get("step", 0)}, args.out)


if __name__ == "__main__":
    main()
