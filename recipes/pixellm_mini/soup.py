"""The mean of several training states, which does better than each (Wortsman et al., "Model soups", 2022).

python -m recipes.pixellm_mini.soup --states a/training.pt b/training.pt --out soup/training.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def mean(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of states with the same tensors.

    Raises:
        ValueError: the states have different tensors.
    """
    first, *others = states
    if any(other.keys() != first.keys() for other in others):
        raise ValueError("The states hold different tensors; give states of one model.")
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(first[name].dtype)
        for name in first
    }


def main() -> None:
    """Write the mean of the states."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    loaded = [torch.load(path, map_location="cpu", weights_only=True) for path in arguments.states]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    newest = max(int(one.get("step", 0)) for one in loaded)
    torch.save({"model": mean([one["model"] for one in loaded]), "step": newest}, arguments.out)


if __name__ == "__main__":
    main()
