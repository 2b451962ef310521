"""The segmentation codebook: six tokens a target, scale-major (specification sections 5.2, 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pixellm_model.errors import CheckpointError


@dataclass(frozen=True)
class Codebook:
    """The ids of [SEG0]..[SEGn-1].

    Raises CheckpointError unless they are distinct and consecutive: a tokenizer that splits them, or
    maps them all to one id, would otherwise give masks of nothing in particular.
    """

    ids: tuple[int, ...]
    tokens_per_scale: int

    def __post_init__(self) -> None:
        first = self.ids[0] if self.ids else -1
        if first < 0 or list(self.ids) != list(range(first, first + len(self.ids))):
            raise CheckpointError(
                f"The tokenizer maps [SEG0]..[SEG{max(len(self.ids) - 1, 0)}] to {list(self.ids)}; they must "
                "be distinct and consecutive. Use the tokenizer files that belong to the checkpoint."
            )

    @property
    def text(self) -> str:
        """One target as it stands in an answer."""
        return " ".join(f"[SEG{k}]" for k in range(len(self.ids)))

    def find_runs(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """Starts of the complete runs in `ids`, and how many codebook tokens belong to none."""
        runs: list[int] = []
        loose = i = 0
        while i < len(ids):
            if tuple(ids[i : i + len(self.ids)]) == self.ids:
                runs.append(i)
                i += len(self.ids)
            else:
                loose += self.ids[0] <= ids[i] <= self.ids[-1]
                i += 1
        return runs, loose

    def fuse(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(N*codebook_size, dim) token embeddings -> (N, scales, dim).

        Each token weighs 1/codebook_size, not 1/tokens_per_scale: the reference's constant, in the
        model's own dtype (section 7).
        """
        size, scales = len(self.ids), len(self.ids) // self.tokens_per_scale
        grouped = embeddings.reshape(-1, scales, self.tokens_per_scale, embeddings.shape[-1])
        weight = torch.tensor(1 / size, dtype=embeddings.dtype, device=embeddings.device)
        return (grouped * weight).sum(dim=2)
