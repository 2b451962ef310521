"""Explains a labeling configuration: `python -m label_config check FILE` or `check --project N`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from label_config.explain import explain
from label_config.reader import ConfigError

EXIT_UNUSABLE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 when the configuration cannot be used or read."""
    parser = argparse.ArgumentParser("python -m label_config", description=__doc__)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="say what will be asked, where masks, answers and labels go")
    check.add_argument("file", nargs="?", type=Path, help="a labeling configuration in XML")
    check.add_argument("--project", help="a project's number in the Label Studio at LABEL_STUDIO_URL")
    parsed = parser.parse_args(arguments)
    if (parsed.file is None) == (parsed.project is None):
        parser.error("name a file or a project")
    try:
        explanation = explain(parsed.file.read_text("utf-8") if parsed.file else _of_project(parsed.project))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    for fact in explanation.facts:
        print(fact)
    for line in explanation.advice:
        print(f"advice: {line}")
    return 0


def _of_project(project: str) -> str:
    # Only this needs a client of Label Studio; a file is checked without it.
    from backend.label_studio.client import LabelStudioClient, LabelStudioUnavailable
    from worker.settings import Settings
    from worker.startup import read_settings

    try:
        client = LabelStudioClient(read_settings(Settings))
        try:
            return str(client.project(project)["label_config"])
        finally:
            client.close()
    except LabelStudioUnavailable as error:
        raise ConfigError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
