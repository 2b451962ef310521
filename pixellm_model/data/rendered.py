"""Rendered scenes as a data set; the same on every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixellm_model.samples import Sample
from pixellm_model.synthetic.scenes import SceneRenderer

HELD_OUT = 900_000_000  # scenes numbered from here on are never trained on


class RenderedScenes(Sequence[Sample]):
    """`count` scenes from a folder of cut-outs; split "held_out" has arrangements kept for evaluation."""

    def __init__(self, folder: Path, split: str | None = None, count: int = 200, size: int = 448):
        self._renderer = SceneRenderer(folder, "train", size, level=3)
        self._first = HELD_OUT if split == "held_out" else 0
        self._count = count
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return self._count

    # Slices are not supported.
    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._renderer.render_scene(self._first + index)
