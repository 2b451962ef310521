"""Answers clicks and adjustments: the changed mask of one object in place of an answer in words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pixellm_model import Click, ClickError, Picture, PromptError
from worker.jobs.contract import SegmentJob
from worker.jobs.masks import from_rle
from worker.serving.model import Model, ModelTarget


@dataclass(frozen=True)
class RefinedAnswer:
    """A model's answer that is one mask without words."""

    targets: Sequence[ModelTarget]
    answer: str = ""
    warnings: Sequence[str] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    unknown: Sequence[str] = ()


def refine(model: Model, job: SegmentJob, picture: Picture) -> RefinedAnswer | PromptError:
    """Correct or begin the mask of one object.

    Args:
        model: The model.
        job: A job with clicks, a box or an adjustment.
        picture: Its image, prepared by `model`.

    Returns:
        An answer with the mask as its only target, or why the clicks cannot be used, as a sentence for the
        annotator.
    """
    start = time.perf_counter()
    mask = from_rle(job.mask) if job.mask is not None else None
    if mask is not None and mask.shape != tuple(picture.original):
        return PromptError("The mask is of another size than the image; the image has changed since.")
    clicks = [Click(click.x, click.y, click.positive) for click in job.clicks]
    try:
        target = model.refine(picture, clicks, mask, job.box, job.adjust)
    except ClickError as error:
        return PromptError(str(error))
    return RefinedAnswer((target,), timings={"refine": time.perf_counter() - start})
