"""`python -m worker dataset`, `versions` and `train`: looking at what is learned, and steering it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from redis.exceptions import RedisError
from sqlalchemy import select

from worker.images.decode import decode
from worker.jobs.queue import connect
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, DatabaseUnavailable, dataset, runs
from worker.store.registry import Registry, RegistryError, split_name
from worker.store.tables import Correction, TrainingRun

WATCH_EVERY_S = 1.0


class CommandError(Exception):
    """What was asked for cannot be done; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 with one sentence on standard error."""
    parsed = _parser().parse_args(arguments)
    settings = WorkerSettings.model_validate({})
    try:
        parsed.does(settings, parsed)
    except (
        CommandError,
        RegistryError,
        DatabaseUnavailable,
        RedisError,
        FileNotFoundError,
        ValueError,
    ) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m worker", description=__doc__)
    kinds = parser.add_subparsers(required=True)

    def command(group: Any, name: str, does: Callable[..., None], words: str, project: bool) -> Any:
        one = group.add_parser(name, help=words, description=words)
        one.set_defaults(does=does)
        if project:
            one.add_argument("--project", required=True, help="the project's number in Label Studio")
        return one

    data = kinds.add_parser("dataset", help="the corrections").add_subparsers(required=True)
    command(data, "stat", _stat, "count what there is to learn from", True)
    export = command(data, "export", _export, "write it as files", True)
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=("muse", "coco"), default="muse")
    show = command(data, "show", _show, "draw one corrected annotation", False)
    show.add_argument("annotation", help="its number in Label Studio")
    show.add_argument("--out", type=Path, help="an image file")

    versions = kinds.add_parser("versions", help="the registry").add_subparsers(required=True)
    command(versions, "list", _list, "all versions, newest first", False)
    shown = command(versions, "show", _manifest, "one version's manifest and worst questions", False)
    shown.add_argument("version")
    promote = command(versions, "promote", _promote, "make a version answer a project", True)
    promote.add_argument("version", help="its name, or `base`")
    promote.add_argument("--force", action="store_true", help="although the gate rejected it")
    command(versions, "rollback", _rollback, "make the version before answer again", True)

    train = command(kinds, "train", _train, "ask for a training and follow it", True)
    train.add_argument("--no-wait", action="store_true", help="only ask")
    runs = command(kinds, "runs", _runs, "trainings, newest first", False)
    runs.add_argument("--limit", type=int, default=20)
    return parser


def _database(settings: WorkerSettings) -> Database:
    database = Database(settings)
    database.migrate()
    return database


def _stat(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    print(json.dumps(dataset.statistics(_database(settings), asked.project), indent=2))


def _export(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    found = dataset.corrections_of(_database(settings), asked.project)
    if not found:
        raise CommandError(f"Project {asked.project} has no corrections to export.")
    if asked.out.exists() and any(asked.out.iterdir()):
        raise CommandError(f"{asked.out} is not empty; name a new folder.")
    if asked.format == "coco":
        dataset.export_coco(found, Blobs(settings), asked.out)
        print(f"{len(found)} annotations in {asked.out}/instances.json")
    else:
        snapshot = dataset.export_muse(found, Blobs(settings), asked.out)
        print(
            f"{len(found)} annotations in {asked.out}/{dataset.DATASET}: {snapshot.train} images to train "
            f"on, {snapshot.held_out} held out, hash {snapshot.hash}"
        )


def _show(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    with _database(settings).session() as session:
        found = session.get(Correction, asked.annotation)
    if found is None:
        raise CommandError(f"Nothing is known of annotation {asked.annotation}.")
    print(
        f"annotation {found.annotation}, task {found.task}, project {found.project}: {found.status}, "
        f"as of {found.updated_at:%Y-%m-%d %H:%M:%S}, model {found.model_version or 'unknown'}, "
        f"split {dataset.split_of(found.image) if found.image else 'none'}"
    )
    for turn in found.turns:
        phrases = ", ".join(target["phrase"] for target in turn["targets"]) or "nothing"
        print(f"  {turn['prompt']!r}: {phrases}")
    for outcome in found.outcomes:
        iou = "" if outcome["iou"] is None else f", IoU {outcome['iou']:.3f}"
        print(f"  {outcome['kind']:10} {outcome['phrase']} -> {outcome['label']}{iou}")
    if asked.out and found.image:
        # Drawing needs the model's package, and that needs torch.
        from pixellm_model import Target
        from pixellm_model.measuring.overlay import draw_overlay

        picture = decode(Blobs(settings).get(found.image), settings.max_image_pixels)
        masks = [Target(phrase, mask, 1.0, _box(mask)) for phrase, mask in dataset.final_masks(found)]
        draw_overlay(picture, masks, "; ".join(turn["prompt"] for turn in found.turns)).save(asked.out)
        print(f"drawn in {asked.out}")


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _list(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    registry = Registry(settings)
    found = registry.versions()
    if not found:
        print("no versions yet: the base answers every project")
    for one in found:
        pointer = registry.pointer(one.project)
        mark = "promoted" if one.verdict["promote"] else "rejected"
        if pointer and pointer.adapter == one.adapter:
            mark = "serving"
        when = f"{one.created_at:%Y-%m-%d %H:%M}"
        print(f"{one.name}  {when}  project {one.project}  {mark:8}  {one.verdict['why']}")


def _manifest(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    registry = Registry(settings)
    adapter = _adapter(asked.version)
    print(registry.manifest(adapter).model_dump_json(indent=2))
    rows = json.loads((registry.folder(adapter) / "samples.json").read_text())
    rows.sort(key=lambda row: row["candidate"]["iou"] - row["serving"]["iou"])
    print("\nwhere it lost most:")
    for row in rows[:10]:
        change = f"{row['serving']['iou']:.2f} -> {row['candidate']['iou']:.2f}"
        print(f"  {change}  {row['set']:10} {row['image'][:12]}  {row['question']}")


def _promote(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    registry = Registry(settings)
    adapter = None if asked.version == "base" else _adapter(asked.version)
    if adapter is not None and not asked.force:
        verdict = registry.manifest(adapter).verdict
        if not verdict["promote"]:
            raise CommandError(
                f"The gate rejected {adapter}: {verdict['why']}. Promote it all the same with --force."
            )
    registry.promote(asked.project, adapter, "promoted by hand")
    print(f"project {asked.project} is answered by {asked.version} from the next prompt on")


def _rollback(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    pointer = Registry(settings).rollback(asked.project)
    print(f"project {asked.project} is answered by {pointer.adapter or 'the base'} from the next prompt on")


def _train(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    database = _database(settings)
    number = runs.request(database, connect(settings.redis_url), asked.project, "asked for by command")
    print(f"training {number} is requested")
    said = ""
    while not asked.no_wait:
        with database.session() as session:
            run = session.get_one(TrainingRun, number)
        if (line := _line(run)) != said:
            print(said := line, flush=True)
        if run.state not in runs.OPEN:
            return
        time.sleep(WATCH_EVERY_S)


def _runs(settings: WorkerSettings, asked: argparse.Namespace) -> None:
    with _database(settings).session() as session:
        for run in session.scalars(select(TrainingRun).order_by(TrainingRun.id.desc()).limit(asked.limit)):
            print(_line(run))


def _line(run: TrainingRun) -> str:
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


def _adapter(version: str) -> str:
    base, adapter = split_name(version)
    return adapter or base
