"""Compares what several annotations of one image say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle
from worker.store.corrections import TRAINED_STATUSES
from worker.store.database import Database
from worker.store.tables import Correction

AGREED_IOU = 0.5  # of all masks of a label; annotations that reach less disagree


@dataclass(frozen=True)
class Opinion:
    """Another annotation of the same image.

    Attributes:
        annotation: Its id.
        annotator: Who made it; None if Label Studio did not say.
        ious: The IoU of both annotations' masks by label; 0 where only one has the label.
    """

    annotation: str
    annotator: str | None
    ious: dict[str, float]

    @property
    def disagrees(self) -> bool:
        """Whether the annotations differ much in a label."""
        return any(iou < AGREED_IOU for iou in self.ious.values())


def other_opinions(database: Database, correction: Correction) -> list[Opinion]:
    """Compare a correction with the others of the same image in its project.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    if correction.image is None:
        return []
    query = select(Correction).where(
        Correction.project == correction.project,
        Correction.image == correction.image,
        Correction.annotation != correction.annotation,
        Correction.status.in_(TRAINED_STATUSES),
    )
    with database.read() as session:
        others = session.scalars(query.order_by(Correction.annotation)).all()
    mine = _masks_by_label(correction)
    opinions = []
    for other in others:
        theirs = _masks_by_label(other)
        ious = {label: _iou(mine.get(label), theirs.get(label)) for label in sorted({*mine, *theirs})}
        opinions.append(Opinion(other.annotation, other.annotator, ious))
    return opinions


def _masks_by_label(correction: Correction) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the union of a correction's masks for each label, or phrase where there is none."""
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for turn in correction.turns:
        for target in turn["targets"]:
            label, mask = (
                target["label"] or target["phrase"],
                from_rle(CocoRLE.model_validate(target["mask"])),
            )
            masks[label] = masks[label] | mask if label in masks else mask
    return masks


def _iou(first: npt.NDArray[np.bool_] | None, second: npt.NDArray[np.bool_] | None) -> float:
    if first is None or second is None or first.shape != second.shape:
        return 0.0
    return int((first & second).sum()) / max(int((first | second).sum()), 1)
