"""Corrections as a data set: frozen, split, counted, exported.

An image's split follows from its content's hash alone, so that it never moves: not by a new annotation, not
by another project, not by a later snapshot.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from sqlalchemy import func, select

from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle
from worker.store import Blobs, Database
from worker.store.corrections import learned_from
from worker.store.tables import Correction, Event

HELD_OUT_PARTS, PARTS = 1, 5  # a fifth of the images is never trained on
DATASET = "dataset.json"


@dataclass(frozen=True)
class Snapshot:
    """A frozen data set in `folder` (`dataset.json`, `images/`); `hash` is that of its content."""

    folder: Path
    hash: str
    train: int
    held_out: int
    targets: int


def split_of(image: str) -> str:
    """`train` or `held_out`, from an image's name in the store (its SHA-256).

    >>> split_of("00000004" + "0" * 56 + ".png"), split_of("0" * 64 + ".png")
    ('train', 'held_out')
    """
    return "held_out" if int(image[:8], 16) % PARTS < HELD_OUT_PARTS else "train"


def record_of(correction: Correction) -> dict[str, Any]:
    """One correction in the format of docs/data.md."""
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


def corrections_of(database: Database, project: str) -> list[Correction]:
    with database.session() as session:
        return learned_from(session, project)


def freeze(corrections: Sequence[Correction], blobs: Blobs, folder: Path) -> Snapshot:
    """Writes a snapshot below `folder`, in a folder named by its hash; the same corrections give the same.

    Raises FileNotFoundError for an image that the store has lost.
    """
    records = [record_of(correction) for correction in corrections]
    text = json.dumps(records, indent=1, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    images = folder / digest / "images"
    images.mkdir(parents=True, exist_ok=True)
    for record in records:
        blobs.save_to(record["file_name"], images)
    beside = folder / digest / f"{DATASET}.part"
    beside.write_text(text)
    beside.replace(folder / digest / DATASET)
    splits = {record["file_name"]: record["split"] for record in records}
    return Snapshot(
        folder / digest,
        digest,
        sum(split == "train" for split in splits.values()),
        sum(split == "held_out" for split in splits.values()),
        sum(len(answer) for record in records for answer in record["answers"]),
    )


def export_muse(corrections: Sequence[Correction], blobs: Blobs, out: Path) -> Snapshot:
    """The snapshot's format straight into `out`."""
    snapshot = freeze(corrections, blobs, out.parent / f".{out.name}.part")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(snapshot.folder, out, dirs_exist_ok=True)
    shutil.rmtree(snapshot.folder.parent)
    return Snapshot(**{**asdict(snapshot), "folder": out})


def export_coco(corrections: Sequence[Correction], blobs: Blobs, out: Path) -> None:
    """COCO instances with RLE segmentations: each final mask once, by its label; `images/` beside."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    pictures: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for correction in corrections:
        assert correction.image is not None
        blobs.save_to(correction.image, out / "images")
        picture = pictures.setdefault(
            correction.image,
            {
                "id": len(pictures) + 1,
                "file_name": correction.image,
                "height": correction.height,
                "width": correction.width,
                "split": split_of(correction.image),
            },
        )
        masks = {
            (target["label"] or target["phrase"], target["mask"]["counts"]): target["mask"]
            for turn in correction.turns
            for target in turn["targets"]
        }
        for (name, counts), mask in masks.items():
            encoded = {"size": mask["size"], "counts": counts.encode("ascii")}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture["id"],
                    "category_id": categories.setdefault(name, len(categories) + 1),
                    "segmentation": mask,
                    "area": int(coco_mask.area(encoded)),
                    "bbox": [float(side) for side in coco_mask.toBbox(encoded)],
                    "iscrowd": 0,
                }
            )
    instances = {
        "images": list(pictures.values()),
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": annotations,
    }
    (out / "instances.json").write_text(json.dumps(instances, indent=1) + "\n")


def statistics(database: Database, project: str) -> dict[str, Any]:
    """What is there to learn from, and what is not and why."""
    with database.session() as session:
        every = session.scalars(select(Correction).where(Correction.project == project)).all()
        waiting = session.scalar(
            select(func.count()).where(Event.project == project, Event.state == "pending")
        )
        failed = session.scalars(
            select(Event.reason).where(Event.project == project, Event.state == "failed")
        ).all()
    learned = [one for one in every if one.turns and one.image]
    outcomes = [outcome for one in every for outcome in one.outcomes]
    edited = [outcome["iou"] for outcome in outcomes if outcome["kind"] == "edited" and outcome["iou"]]
    images = {one.image: split_of(one.image) for one in learned if one.image}
    effort = [one.effort_s for one in every if one.effort_s is not None and one.status != "deleted"]
    return {
        "annotations": dict(Counter(one.status for one in every)),
        "images": dict(Counter(images.values())),
        "prompts": sum(len(one.turns) for one in learned),
        "targets": dict(Counter(outcome["kind"] for outcome in outcomes)),
        "labels": dict(
            Counter(outcome["label"] or "" for outcome in outcomes if outcome["kind"] != "rejected")
        ),
        "edited_iou_mean": round(float(np.mean(edited)), 4) if edited else None,
        "seconds_per_annotation": round(float(np.median(effort)), 1) if effort else None,
        "events_waiting": waiting,
        "events_failed": dict(Counter(reason or "" for reason in failed)),
    }


def final_masks(correction: Correction) -> list[tuple[str, np.ndarray]]:
    """Phrase and mask (H, W) bool of each final target, those of several prompts once."""
    masks = {
        target["mask"]["counts"]: (target["phrase"], target["mask"])
        for turn in correction.turns
        for target in turn["targets"]
    }
    return [(phrase, from_rle(CocoRLE.model_validate(mask))) for phrase, mask in masks.values()]
