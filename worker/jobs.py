"""The job itself: a question in, the model's answer out. RQ calls `segment` by its name."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pydantic import ValidationError
from rq.timeouts import JobTimeoutException

from pixellm_model import PromptError
from worker.contract import SegmentJob, SegmentResult, TargetResult
from worker.fetch import ImageFetcher
from worker.images import ImageError
from worker.masks import to_rle

log = logging.getLogger(__name__)


class Target(Protocol):
    """One target; `mask` is a bool array (height, width), `box` is x0, y0, x1, y1 in pixels."""

    @property
    def phrase(self) -> str: ...
    @property
    def mask(self) -> np.ndarray: ...
    @property
    def score(self) -> float: ...
    @property
    def box(self) -> tuple[int, int, int, int]: ...


class Segmentation(Protocol):
    @property
    def answer(self) -> str: ...
    @property
    def targets(self) -> Sequence[Target]: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def timings(self) -> Mapping[str, float]: ...


class Model(Protocol):
    """All the worker knows of a model; `pixellm_model.Segmenter` is one."""

    @property
    def version(self) -> str: ...
    def segment(self, image: Image.Image, prompt: str, history: Sequence[tuple[str, str]]) -> Segmentation:
        """`image` is RGB, `history` holds earlier (prompt, answer) turns about it. Raises PromptError,
        in a sentence for the annotator, for a prompt it cannot take."""


class Engine:
    """A warm model and the way images come to it."""

    def __init__(self, model: Model, fetcher: ImageFetcher) -> None:
        self._model = model
        self._fetcher = fetcher

    def segment(self, job: SegmentJob) -> SegmentResult:
        """Raises ImageError when the image cannot be had, and whatever the model raises."""
        timings: dict[str, float] = {}
        with _timed("fetch", timings):
            image = self._fetcher.load(job.image, job.task)
        history = [(turn.prompt, turn.answer) for turn in job.history]
        found = self._model.segment(image, job.prompt, history)
        timings |= found.timings
        with _timed("masks", timings):
            targets = tuple(
                TargetResult(
                    phrase=target.phrase,
                    score=float(target.score),
                    box=target.box,
                    mask=to_rle(target.mask),
                )
                for target in found.targets
            )
        return SegmentResult(
            job_id=job.job_id,
            answer=found.answer,
            targets=targets,
            width=image.width,
            height=image.height,
            model_version=self._model.version,
            warnings=tuple(found.warnings),
            timings=timings,
        )


# RQ finds the function by its path, so the warm engine of this process has to be found from here.
_engine: Engine | None = None


def install(engine: Engine) -> None:
    """Makes `engine` the one that answers in this process."""
    global _engine
    _engine = engine


def segment(payload: dict[str, Any]) -> dict[str, Any]:
    """Answers one `SegmentJob`, given and returned (`SegmentResult`) as JSON values."""
    assert _engine is not None, "install() comes before the first job"
    job = SegmentJob.model_validate(payload)
    result = _engine.segment(job)
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items())
    log.info("%s: %d targets (%s)", job.job_id, len(result.targets), stages)
    return result.model_dump(mode="json")


def reason(error: BaseException) -> str:
    """The one sentence a caller is told about a job that raised `error`."""
    match error:
        case ImageError() | PromptError():
            return str(error)
        case JobTimeoutException():
            return "This took longer than the worker allows (JOB_TIMEOUT_S) and was stopped."
        case ValidationError():
            return "The worker does not understand this job; update the backend and the worker together."
        case _:
            return f"The model failed on this image ({type(error).__name__})."


@contextmanager
def _timed(stage: str, timings: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - start
