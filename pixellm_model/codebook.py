"""The segmentation codebook: six tokens per target, scale-major (arXiv 2312.02228, Segmentation Codebook)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pixellm_model.errors import CheckpointError


@dataclass(frozen=True)
class Codebook:
    """The codebook's tokens.

    Attributes:
        ids: Token ids of [SEG0]..[SEGn-1].
        tokens_per_scale: How many of them describe a target at each scale.

    Raises:
        CheckpointError: The ids are not distinct and consecutive. With a tokenizer that splits the tokens, or
            maps them all to one id, the masks would be meaningless.
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
        """One target in the text of an answer.

        >>> Codebook((7, 8), 1).text
        '[SEG0] [SEG1]'
        """
        return " ".join(f"[SEG{k}]" for k in range(len(self.ids)))

    def find_runs(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """Find the targets in an answer.

        Args:
            ids: Token ids of an answer.

        Returns:
            The start of each complete run of the codebook's tokens, and how many codebook tokens belong to
            none.

        >>> Codebook((7, 8), 1).find_runs([1, 7, 8, 2, 7])
        ([1], 1)
        """
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
        """Fuse the token embeddings of each target and scale into one.

        Each token weighs 1/codebook_size, not 1/tokens_per_scale: the reference's constant, in the model's
        own dtype.

        Args:
            embeddings: (N * codebook_size, dim).

        Returns:
            (N, scales, dim).
        """
        size, scales = len(self.ids), len(self.ids) // self.tokens_per_scale
        grouped = embeddings.reshape(-1, scales, self.tokens_per_scale, embeddings.shape[-1])
        weight = torch.tensor(1 / size, dtype=embeddings.dtype, device=embeddings.device)
        return (grouped * weight).sum(dim=2)
