"""The sample images of the demo's project, and the first prompt."""

from __future__ import annotations

from pathlib import Path

from demo.environment import ROOT

FOLDER = ROOT / "demo" / "samples"
PROVED = FOLDER / "scene_table.jpg"
PROMPT = "the cup and the book"


def images() -> list[Path]:
    """All sample images (see samples/LICENSES.md), the one of the first prompt first."""
    return [PROVED, *sorted(path for path in FOLDER.glob("*.jpg") if path != PROVED)]
