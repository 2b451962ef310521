"""The images that the demo's project holds, and the one it asks about."""

from __future__ import annotations

from pathlib import Path

from demo.environment import ROOT

FOLDER = ROOT / "demo" / "samples"
PROVED = FOLDER / "scene_table.jpg"
PROMPT = "the cup and the book"


def images() -> list[Path]:
    """All sample images (see samples/LICENSES.md), the one of the proof first."""
    return [PROVED, *sorted(path for path in FOLDER.glob("*.jpg") if path != PROVED)]
