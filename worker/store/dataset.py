"""Corrections as a data set: snapshots, splits, statistics, export.

An image's split follows from the hash of its content alone. So it stays the same with new annotations, in
other projects and in later snapshots.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from sqlalchemy import func, select

from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle
from worker.store import Blobs, Database
from worker.store.corrections import training_corrections
from worker.store.tables import Correction, Event

log = logging.getLogger(__name__)

HELD_OUT_PARTS, PARTS = 1, 5  # one fifth of the images is never trained on
DATASET = "dataset.json"
WITHOUT_MASK = ("rejected", "open")  # kinds of outcomes


@dataclass(frozen=True)
class Snapshot:
    """A frozen data set.

    Attributes:
        folder: Holds `dataset.json` and `images/`.
        hash: Hash of the content.
        train: Number of images to train on.
        held_out: Number of held-out images.
        targets: Number of masks.
    """

    folder: Path
    hash: str
    train: int
    held_out: int
    targets: int


def split_of(image: str) -> str:
    """The split of an image, `train` or `held_out`, by its name in the store (its SHA-256).

    >>> split_of("00000004" + "0" * 56 + ".png"), split_of("0" * 64 + ".png")
    ('train', 'held_out')
    """
    return "held_out" if int(image[:8], 16) % PARTS < HELD_OUT_PARTS else "train"


def record_of(correction: Correction) -> dict[str, Any]:
    """Convert a correction to a record in the format of docs/data.md."""
    assert correction.image is not None
    return {
        "id": f"{correction.task}-{correction.annotation}",
        "file_name": correction.image,
        "height": correction.height,
        "width": correction.width,
        "split": split_of(correction.image),
        "questions": [turn["prompt"] for turn in correction.turns],
        "answers": [
            [
                {
                    "category_name": target["label"] or target["phrase"],
                    "rephrased_name": target["phrase"],
                    "segmentation": target["mask"],
                }
                for target in turn["targets"]
            ]
            for turn in correction.turns
        ],
        "text_answers": [turn["answer"] for turn in correction.turns],
        "history": [turn["history"] for turn in correction.turns],
    }


def corrections_of(database: Database, project: str, reviewed_only: bool = False) -> list[Correction]:
    """The corrections of a project to train on, in a fixed order.

    Args:
        database: Where they are.
        project: The project.
        reviewed_only: Only ground truth and what a reviewer accepted.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    with database.read() as session:
        return training_corrections(session, project, None, reviewed_only)


def freeze(corrections: Sequence[Correction], blobs: Blobs, folder: Path) -> Snapshot:
    """Write a snapshot; the same corrections give the same snapshot.

    Args:
        corrections: The corrections.
        blobs: The store of their images.
        folder: The snapshot is written to `<folder>/<hash>`.

    Returns:
        The snapshot. Corrections whose image is missing in the store or damaged are left out.
    """
    records = [record_of(correction) for correction in corrections]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".freezing-", dir=folder) as temporary:
        records = [record for record in records if _copy_image(record["file_name"], blobs, Path(temporary))]
        return _write_snapshot(records, Path(temporary), folder)


def _copy_image(name: str, blobs: Blobs, folder: Path) -> bool:
    """Copy an image; returns whether it could be read. One may be deleted while a snapshot is made."""
    try:
        blobs.save_to(name, folder)
    except (FileNotFoundError, ValueError) as error:
        log.warning("a correction is left out: its image %s cannot be read: %s", name, error)
        return False
    return True


def _write_snapshot(records: list[dict[str, Any]], copies: Path, folder: Path) -> Snapshot:
    text = json.dumps(records, indent=1, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    images = folder / digest / "images"
    images.mkdir(parents=True, exist_ok=True)
    for copy in copies.iterdir():
        copy.replace(images / copy.name)
    temporary_path = folder / digest / f"{DATASET}.part"
    temporary_path.write_text(text)
    temporary_path.replace(folder / digest / DATASET)
    splits = {record["file_name"]: record["split"] for record in records}
    return Snapshot(
        folder / digest,
        digest,
        sum(split == "train" for split in splits.values()),
        sum(split == "held_out" for split in splits.values()),
        sum(len(answer) for record in records for answer in record["answers"]),
    )


def export_muse(corrections: Sequence[Correction], blobs: Blobs, out: Path) -> Snapshot:
    """Write a snapshot directly to the folder `out`."""
    snapshot = freeze(corrections, blobs, out.parent / f".{out.name}.part")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(snapshot.folder, out, dirs_exist_ok=True)
    shutil.rmtree(snapshot.folder.parent)
    return replace(snapshot, folder=out)


def export_coco(corrections: Sequence[Correction], blobs: Blobs, out: Path) -> None:
    """Write COCO instances with RLE segmentations: each final mask once, by its label.

    Args:
        corrections: The corrections.
        blobs: The store of their images.
        out: Gets `instances.json` and `images/`.

    Raises:
        FileNotFoundError: An image is missing in the store.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for correction in corrections:
        assert correction.image is not None
        blobs.save_to(correction.image, out / "images")
        image = images.setdefault(
            correction.image,
            {
                "id": len(images) + 1,
                "file_name": correction.image,
                "height": correction.height,
                "width": correction.width,
                "split": split_of(correction.image),
            },
        )
        for name, mask in _labelled_masks(correction):
            category = categories.setdefault(name, len(categories) + 1)
            annotations.append(_coco_annotation(len(annotations) + 1, image["id"], category, mask))
    instances = {
        "images": list(images.values()),
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": annotations,
    }
    (out / "instances.json").write_text(json.dumps(instances, indent=1) + "\n")


def _labelled_masks(correction: Correction) -> list[tuple[str, dict[str, Any]]]:
    """The label (or phrase) and the mask of each final target; a mask of several turns is there once."""
    masks = {
        (target["label"] or target["phrase"], target["mask"]["counts"]): target["mask"]
        for turn in correction.turns
        for target in turn["targets"]
    }
    return [(name, mask) for (name, _), mask in masks.items()]


def _coco_annotation(number: int, image: int, category: int, mask: dict[str, Any]) -> dict[str, Any]:
    encoded = {"size": mask["size"], "counts": mask["counts"].encode("ascii")}
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": mask,
        "area": int(coco_mask.area(encoded)),
        "bbox": [float(side) for side in coco_mask.toBbox(encoded)],
        "iscrowd": 0,
    }


def statistics(database: Database, project: str) -> dict[str, Any]:
    """Count a project's corrections, for people to look at.

    Args:
        database: Where corrections and events are.
        project: The project.

    Returns:
        Counts by name, as JSON values.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    with database.read() as session:
        corrections = session.scalars(select(Correction).where(Correction.project == project)).all()
        waiting = session.scalar(
            select(func.count()).where(Event.project == project, Event.state == "pending")
        )
        failed = session.scalars(
            select(Event.reason).where(Event.project == project, Event.state == "failed")
        ).all()
    learned = [correction for correction in corrections if correction.turns and correction.image]
    outcomes = [outcome for correction in corrections for outcome in correction.outcomes]
    edited = [outcome["iou"] for outcome in outcomes if outcome["kind"] == "edited" and outcome["iou"]]
    images = {item.image: split_of(item.image) for item in learned if item.image}
    effort = [item.effort_s for item in corrections if item.effort_s is not None and item.status != "deleted"]
    return {
        "annotations": dict(Counter(correction.status for correction in corrections)),
        "images": dict(Counter(images.values())),
        "prompts": sum(len(correction.turns) for correction in learned),
        "targets": dict(Counter(outcome["kind"] for outcome in outcomes)),
        "labels": dict(
            Counter(outcome["label"] or "" for outcome in outcomes if outcome["kind"] not in WITHOUT_MASK)
        ),
        "edited_iou_mean": round(float(np.mean(edited)), 4) if edited else None,
        "seconds_per_annotation": round(float(np.median(effort)), 1) if effort else None,
        "events_waiting": waiting,
        "events_failed": dict(Counter(reason or "" for reason in failed)),
    }


def final_masks(correction: Correction) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """The phrase and the mask of each final target; a mask of several turns is there once."""
    masks = {
        target["mask"]["counts"]: (target["phrase"], target["mask"])
        for turn in correction.turns
        for target in turn["targets"]
    }
    return [(phrase, from_rle(CocoRLE.model_validate(mask))) for phrase, mask in masks.values()]
