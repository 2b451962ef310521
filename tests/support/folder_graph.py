"""The folder diagram in CONTRIBUTING.md, from the import table: `python -m tests.support.folder_graph`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from test_architecture import MAY_IMPORT


def mermaid() -> str:
    """The folders grouped by package, with arrows from importer to imported; implied ones are left out."""
    lines = ["flowchart TD"]
    for package in dict.fromkeys(folder.split("/")[0] for folder in MAY_IMPORT):
        lines.append(f'  subgraph {package}_package ["{package}/"]')
        for folder in MAY_IMPORT:
            if folder.split("/")[0] == package:
                label = folder.removeprefix(f"{package}/") if "/" in folder else "top level"
                lines.append(f'    {node(folder)}["{label}"]')
        lines.append("  end")
    for folder, targets in MAY_IMPORT.items():
        implied = {further for target in targets for further in reachable(target)}
        lines += [
            f"  {node(folder)} --> {node(target)}" for target in MAY_IMPORT if target in targets - implied
        ]
    return "\n".join(lines)


def reachable(folder: str) -> set[str]:
    """All folders that an import of `folder` can lead to, directly or not."""
    return {further for target in MAY_IMPORT[folder] for further in {target, *reachable(target)}}


def node(folder: str) -> str:
    return folder.replace("/", "_")


if __name__ == "__main__":
    print(mermaid())
