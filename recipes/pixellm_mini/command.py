"""What the command lines of the steps have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def command(doc: str | None, *paths: str) -> argparse.ArgumentParser:
    """A parser with a script's docstring and required paths such as `--base`; `--cache` takes several."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for path in paths:
        parser.add_argument(path, type=Path, required=True, nargs="+" if path == "--cache" else None)
    return parser
