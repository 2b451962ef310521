"""`python -m worker`: the segmentation worker, the learner, and commands about what is learned."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from worker.learning import commands
from worker.learning.process import learn
from worker.serving.model import Model
from worker.serving.process import serve
from worker.settings import WorkerSettings
from worker.startup import read_settings

DEFAULT_COMMAND = "segment"
HELP_FLAGS = {"-h", "--help"}


def load_pixellm(settings: WorkerSettings) -> tuple[Model, str]:
    """Load the PixelLM model of the settings.

    Args:
        settings: The worker's settings.

    Returns:
        The model and the device it is on.

    Raises:
        NotADirectoryError: MODEL_DIR is not a folder.
        CheckpointError: It does not hold a usable PixelLM.
        ValueError: DEVICE or DTYPE is unknown or not available.
    """
    if settings.model_dir is not None and not settings.model_dir.is_dir():
        raise NotADirectoryError(f"{settings.model_dir} (MODEL_DIR) is not a folder")
    # Importing torch takes seconds; the worker's status is published before.
    from pixellm_model import PrefixCache, Segmenter

    cache = PrefixCache(settings.prefix_cache_bytes)
    segmenter = Segmenter.from_pretrained(
        settings.model_dir, device=settings.device, dtype=settings.dtype, cache=cache
    )
    segmenter.max_targets = settings.max_targets
    return segmenter, str(segmenter.model.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; None: that of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments or the settings are not valid.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in HELP_FLAGS):
        words.insert(0, DEFAULT_COMMAND)
    parsed = _parser().parse_args(words)
    overrides = {
        name: value
        for name, value in vars(parsed).items()
        if name in WorkerSettings.model_fields and value is not None
    }
    settings = read_settings(WorkerSettings, **overrides)
    if parsed.command is None:
        return learn(settings) if parsed.process == "learn" else serve(settings, load_pixellm)
    return commands.run_command(parsed.command, settings, parsed)


class _Subparsers(Protocol):
    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser: ...


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m worker",
        description=f"{__doc__}\n\nWithout a command, or with flags only, it is `{DEFAULT_COMMAND}`.\n"
        f"`python -m worker {DEFAULT_COMMAND} --help` shows its flags.\n"
        "Settings are environment variables, listed in docs/settings.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=None)
    subparsers = parser.add_subparsers(dest="process", required=True, metavar="COMMAND")
    for name, text in (
        ("segment", "answer prompts until asked to stop by a signal (the default)"),
        ("learn", "do the requested trainings until asked to stop by a signal"),
    ):
        _add_process_flags(subparsers.add_parser(name, help=text, description=text))
    nested = [*_add_dataset(subparsers), *_add_versions(subparsers)]
    _add_training(subparsers)
    lines = [f"  {each.prog.removeprefix(parser.prog).strip():18} {each.description}" for each in nested]
    parser.epilog = "\n".join(["commands of dataset and versions:", *lines])
    return parser


def _add_process_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", dest="model_dir", type=Path, metavar="DIR", help="MODEL_DIR")
    parser.add_argument("--device", metavar="DEVICE", help="DEVICE: auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", metavar="DTYPE", help="DTYPE: auto, float32, bfloat16, float16 or int8")
    parser.add_argument("--redis-url", metavar="URL", help="REDIS_URL")


def _add_dataset(subparsers: _Subparsers) -> list[argparse.ArgumentParser]:
    group = _add_group(subparsers, "dataset", "the corrections: stat, export, show")
    stat = _add_command(group, "stat", commands.dataset_stat, "count a project's corrections", True)
    text = "write a project's corrections as files"
    export = _add_command(group, "export", commands.dataset_export, text, True)
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    export.add_argument("--format", choices=("muse", "coco"), default="muse", help="docs/data.md")
    show = _add_command(group, "show", commands.dataset_show, "show one corrected annotation")
    show.add_argument("annotation", metavar="ANNOTATION", help="its number in Label Studio")
    show.add_argument("--out", type=Path, metavar="FILE", help="draw it into this image file")
    return [stat, export, show]


def _add_versions(subparsers: _Subparsers) -> list[argparse.ArgumentParser]:
    group = _add_group(subparsers, "versions", "the trained versions: list, show, promote, rollback")
    list_ = _add_command(group, "list", commands.versions_list, "list all versions, newest first")
    text = "show a version's manifest and worst questions"
    show = _add_command(group, "show", commands.versions_show, text)
    show.add_argument("version", metavar="VERSION", help="its name")
    promote = _add_command(
        group, "promote", commands.versions_promote, "let a version answer a project", True
    )
    promote.add_argument("version", metavar="VERSION", help=f"its name, or `{commands.BASE}`")
    promote.add_argument("--force", action="store_true", help="even if the gate rejected it")
    text = "let the previous version answer a project again"
    rollback = _add_command(group, "rollback", commands.versions_rollback, text, True)
    return [list_, show, promote, rollback]


def _add_training(subparsers: _Subparsers) -> None:
    train = _add_command(subparsers, "train", commands.train, "request a training run and follow it", True)
    train.add_argument("--no-wait", action="store_true", help="only request it")
    runs = _add_command(subparsers, "runs", commands.list_runs, "list training runs, newest first")
    runs.add_argument("--limit", type=int, default=20, metavar="N", help="how many (20)")


def _add_group(subparsers: _Subparsers, name: str, text: str) -> _Subparsers:
    group = subparsers.add_parser(name, help=text, description=text)
    return group.add_subparsers(required=True, metavar="COMMAND")


def _add_command(
    subparsers: _Subparsers,
    name: str,
    command: commands.Command,
    text: str,
    has_project: bool = False,
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    if has_project:
        parser.add_argument(
            "--project", required=True, metavar="N", help="the project's number in Label Studio"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
