"""Explains a labeling configuration: `python -m label_config check FILE` or `check --project N`.

This is a program, not part of the reader: for `--project` it uses the backend's client of Label Studio, which
the modules of `label_config` may not import. The client is imported only then, so that checking a file needs
nothing but `label_config`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from label_config.config import ConfigError
from label_config.explain import explain

DESCRIPTION = "Explain a labeling configuration: where the image, prompts, masks, answers and labels are."
EXIT_UNUSABLE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name; None: that of this process.

    Returns:
        The exit code: 0, or 1 when the configuration cannot be used or read.
    """
    parser = argparse.ArgumentParser("python -m label_config", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "say what will be asked, where masks, answers and labels go, and what would work better"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a labeling configuration in XML")
    check.add_argument(
        "--project", metavar="N", help="a project's number in the Label Studio at LABEL_STUDIO_URL"
    )
    parsed = parser.parse_args(arguments)
    if (parsed.file is None) == (parsed.project is None):
        parser.error("name a file or a project")
    try:
        explanation = explain(parsed.file.read_text("utf-8") if parsed.file else _of_project(parsed.project))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    for fact in (*explanation.facts, *explanation.limits):
        print(fact)
    for line in explanation.advice:
        print(f"advice: {line}")
    return 0


def _of_project(project: str) -> str:
    # Imported here so that a file can be checked where only `label_config` is installed.
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
