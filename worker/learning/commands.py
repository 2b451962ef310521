"""The commands `python -m worker dataset|versions|train|runs`, about corrections, versions and trainings.

Each takes the settings and the parsed arguments (defined in `worker.__main__`) and prints its result.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime

from PIL import Image
from redis.exceptions import RedisError
from sqlalchemy import select

from pixellm_model.masks import mask_box
from worker.images.decode import decode
from worker.jobs.queue import QueueUnavailable, SegmentQueue, connect
from worker.settings import WorkerSettings
from worker.startup import EXIT_FAILED
from worker.store import Blobs, Database, DatabaseUnavailable, dataset, runs
from worker.store.agreement import other_opinions
from worker.store.registry import QUESTIONS, Manifest, Registry, RegistryError, is_of_base, split_name
from worker.store.tables import Correction, TrainingRun

POLL_EVERY_S = 1.0
WORST_QUESTIONS = 10
MAX_RUNS = 1_000_000
BASE = "base"  # the version's name in `versions promote` that means the base model

Command = Callable[[WorkerSettings, argparse.Namespace], None]


class CommandError(Exception):
    """A command cannot be carried out; the message says why."""


def run_command(command: Command, settings: WorkerSettings, arguments: argparse.Namespace) -> int:
    """Run a command.

    These errors end it with one sentence on standard error: CommandError, RegistryError, DatabaseUnavailable,
    QueueUnavailable, RedisError, OSError and ValueError. Others are defects and are raised.

    Args:
        command: A function of this module.
        settings: The worker's settings.
        arguments: The command's arguments.

    Returns:
        The exit code: 0, or EXIT_FAILED after one of these errors.
    """
    try:
        command(settings, arguments)
    except (
        CommandError,
        RegistryError,
        DatabaseUnavailable,
        QueueUnavailable,
        RedisError,
        OSError,
        ValueError,
    ) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0


def dataset_stat(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Print the statistics of a project's corrections."""
    print(json.dumps(dataset.statistics(_open_database(settings), arguments.project), indent=2))


def dataset_export(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Write a project's corrections as a data set.

    Raises:
        CommandError: The project has no corrections, or `--out` is a file or a folder that is not empty.
    """
    reviewed_only = settings.train_on == "reviewed"
    corrections = dataset.corrections_of(_open_database(settings), arguments.project, reviewed_only)
    if not corrections:
        raise CommandError(f"Project {arguments.project} has no corrections to export.")
    if arguments.out.is_file():
        raise CommandError(f"{arguments.out} is a file; name a new folder.")
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise CommandError(f"{arguments.out} is not empty; name a new folder.")
    if arguments.format == "coco":
        dataset.export_coco(corrections, Blobs(settings), arguments.out)
        print(f"{len(corrections)} annotations in {arguments.out}/instances.json")
    else:
        snapshot = dataset.export_muse(corrections, Blobs(settings), arguments.out)
        print(
            f"{len(corrections)} annotations in {arguments.out}/{dataset.DATASET}: {snapshot.train} images "
            f"to train on, {snapshot.held_out} held out, hash {snapshot.hash}"
        )


def dataset_show(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Print what is stored of an annotation, and draw it into the image file `--out` if that is given.

    Raises:
        CommandError: The annotation is not known.
    """
    database = _open_database(settings)
    with database.read() as session:
        correction = session.get(Correction, arguments.annotation)
    if correction is None:
        raise CommandError(f"Nothing is known of annotation {arguments.annotation}.")
    split = dataset.split_of(correction.image) if correction.image else "none"
    print(
        f"annotation {correction.annotation}, task {correction.task}, project {correction.project}: "
        f"{correction.status}, as of {correction.updated_at:%Y-%m-%d %H:%M:%S}, "
        f"model {correction.model_version or 'unknown'}, split {split}, "
        f"by user {correction.annotator or 'unknown'}, review {correction.review or 'none'}"
    )
    for turn in correction.turns:
        phrases = ", ".join(target["phrase"] for target in turn["targets"]) or "nothing"
        print(f"  {turn['prompt']!r}: {phrases}")
    for outcome in correction.outcomes:
        iou = "" if outcome["iou"] is None else f", IoU {outcome['iou']:.3f}"
        print(f"  {outcome['kind']:10} {outcome['phrase']} -> {outcome['label']}{iou}")
    if correction.reason:
        print(f"  not learned: {correction.reason}")
    for opinion in other_opinions(database, correction):
        verdict = "disagrees" if opinion.disagrees else "agrees"
        ious = ", ".join(f"{label} {iou:.2f}" for label, iou in opinion.ious.items())
        by = opinion.annotator or "unknown"
        print(f"  same image: annotation {opinion.annotation} by user {by} {verdict}; IoU by label: {ious}")
    if arguments.out and correction.image:
        _draw_correction(settings, correction, correction.image).save(arguments.out)
        print(f"drawn in {arguments.out}")


def versions_list(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Print all versions, newest first."""
    registry = Registry(settings)
    manifests = registry.versions()
    if not manifests:
        print("no versions yet: the base answers every project")
    for manifest in manifests:
        pointer = registry.serving_pointer(manifest.project)
        state = "promoted" if manifest.verdict["promote"] else "rejected"
        if pointer and pointer.adapter == manifest.adapter:
            state = "serving"
        created = f"{manifest.created_at:%Y-%m-%d %H:%M}"
        print(f"{manifest.name}  {created}  project {manifest.project}  {state:8}  {manifest.verdict['why']}")


def versions_show(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Print the manifest of a version and the questions on which it lost most."""
    registry = Registry(settings)
    adapter = _adapter_name(arguments.version)
    print(registry.manifest(adapter).model_dump_json(indent=2))
    rows = json.loads((registry.verified_folder(adapter) / QUESTIONS).read_text())
    rows.sort(key=lambda row: row["candidate"]["iou"] - row["serving"]["iou"])
    print("\nwhere it lost most:")
    for row in rows[:WORST_QUESTIONS]:
        change = f"{row['serving']['iou']:.2f} -> {row['candidate']['iou']:.2f}"
        print(f"  {change}  {row['set']:10} {row['image'][:12]}  {row['question']}")


def versions_promote(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Let a version serve a project.

    Raises:
        CommandError: The gate rejected the version, and `--force` is not given; or it is of another base than
            the workers have.
        RegistryError: The version is missing or damaged.
        QueueUnavailable: Redis cannot be used.
    """
    registry = Registry(settings)
    adapter = None if arguments.version == BASE else _adapter_name(arguments.version)
    if adapter is not None:
        _check_base(settings, registry.manifest(adapter))
    if adapter is not None and not arguments.force:
        verdict = registry.manifest(adapter).verdict
        if not verdict["promote"]:
            raise CommandError(
                f"The gate rejected {adapter}: {verdict['why']}. Promote it all the same with --force."
            )
    registry.promote(arguments.project, adapter, "promoted by hand")
    print(f"project {arguments.project} is answered by {arguments.version} from the next prompt on")


def _check_base(settings: WorkerSettings, manifest: Manifest) -> None:
    bases = {
        status.model_version for status in SegmentQueue(settings).worker_status() if status.model_version
    }
    if not bases:
        print("no worker is ready: whether the version is of its base model is not checked", file=sys.stderr)
    elif not any(is_of_base(manifest, base) for base in bases):
        raise CommandError(
            f"{manifest.adapter} was trained on the base {manifest.base}, and the workers have "
            f"{', '.join(sorted(bases))}: they could not load it."
        )


def versions_rollback(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Let the previous version serve a project again."""
    pointer = Registry(settings).rollback(arguments.project)
    version = pointer.adapter or "the base"
    print(f"project {arguments.project} is answered by {version} from the next prompt on")


def train(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Request a training run and print its progress until it ends."""
    database = _open_database(settings)
    number = runs.request(database, connect(settings.redis_url), arguments.project, "asked for by command")
    print(f"training {number} is requested")
    last_line = ""
    while not arguments.no_wait:
        with database.read() as session:
            run = session.get_one(TrainingRun, number)
        if (line := _describe_run(run)) != last_line:
            print(line, flush=True)
            last_line = line
        if run.state not in runs.OPEN:
            return
        time.sleep(POLL_EVERY_S)


def list_runs(settings: WorkerSettings, arguments: argparse.Namespace) -> None:
    """Print the training runs, newest first.

    Raises:
        CommandError: `--limit` is out of range.
    """
    if not 1 <= arguments.limit <= MAX_RUNS:
        raise CommandError(f"--limit is {arguments.limit}; give a number from 1 to {MAX_RUNS}.")
    query = select(TrainingRun).order_by(TrainingRun.id.desc()).limit(arguments.limit)
    with _open_database(settings).read() as session:
        for run in session.scalars(query):
            print(_describe_run(run))


def _open_database(settings: WorkerSettings) -> Database:
    database = Database(settings)
    database.migrate()
    return database


def _draw_correction(settings: WorkerSettings, correction: Correction, image: str) -> Image.Image:
    # Drawing imports torch, which takes seconds.
    from pixellm_model import Target
    from pixellm_model.measuring.overlay import draw_overlay

    picture = decode(Blobs(settings).get(image), settings.max_image_pixels)
    targets = [Target(phrase, mask, 1.0, mask_box(mask)) for phrase, mask in dataset.final_masks(correction)]
    return draw_overlay(picture, targets, "; ".join(turn["prompt"] for turn in correction.turns))


def _describe_run(run: TrainingRun) -> str:
    parts = [f"training {run.id}", f"project {run.project}", run.state, run.reason]
    if run.data:
        parts.append(f"{run.data['train']} images to train on, {run.data['held_out']} held out")
    if run.state == "running":
        parts.append(run.stage or "")
        if run.step and run.loss is not None:
            left = f", {run.seconds_left:.0f} s left" if run.seconds_left is not None else ""
            parts.append(f"step {run.step} of {run.steps}, loss {run.loss:.3f}{left}")
    if run.verdict:
        parts.append(f"{run.version}: {run.verdict['why']}")
    if run.error:
        parts.append(run.error)
    if run.finished_at and run.started_at:
        parts.append(f"took {_seconds(run.started_at, run.finished_at):.0f} s")
    return "; ".join(part for part in parts if part)


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


def _adapter_name(version: str) -> str:
    base, adapter = split_name(version)
    return adapter or base
