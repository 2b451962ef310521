"""The jobs themselves: questions in, the model's answers out. RQ calls `segment` and `warm` by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from rq.timeouts import JobTimeoutException

from pixellm_model import Picture, PromptError, Request
from worker.images.decode import ImageError
from worker.jobs.contract import SegmentJob, SegmentResult, TargetResult, WarmJob
from worker.jobs.masks import to_rle
from worker.serving.image_cache import Pictures
from worker.serving.model import Segmentation
from worker.serving.versions import Versions

log = logging.getLogger(__name__)


class Engine:
    """Warm models and the way images come to them, up to `batch_size` of them at the same time."""

    def __init__(self, versions: Versions, images: Pictures, batch_size: int) -> None:
        self._versions = versions
        self._images = images
        self._threads = ThreadPoolExecutor(batch_size, thread_name_prefix="fetch")

    def segment(self, jobs: Sequence[SegmentJob]) -> list[SegmentResult | ImageError | PromptError]:
        """Answers `jobs`, in order, in one call of each version's model. One without an image, or with a
        prompt that the model does not take, has the reason in place of an answer. Raises what the model
        raises."""
        timings: dict[str, float] = {}
        with _timed("fetch", timings):
            images = self._fetch(jobs)
        answers: dict[int, SegmentResult | ImageError | PromptError] = {}
        pictures: dict[int, Picture] = {}
        for place, image in enumerate(images):
            if isinstance(image, ImageError):
                answers[place] = image
            else:
                pictures[place] = image
        for version in dict.fromkeys(jobs[place].model_version for place in pictures):
            model, excuse = self._versions.of(version)
            places = [place for place in pictures if jobs[place].model_version == version]
            found = model.segment_batch([_question(jobs[place], pictures[place]) for place in places])
            for place, answer in zip(places, found, strict=True):
                answers[place] = (
                    answer
                    if isinstance(answer, PromptError)
                    else _result(jobs[place], pictures[place], answer, model.version, excuse, timings)
                )
        return [answers[place] for place in range(len(jobs))]

    def warm(self, job: WarmJob) -> None:
        """Raises ImageError when the image cannot be had, and whatever the model raises."""
        self._versions.of(job.model_version)[0].warm(self._images.load(job.image, job.task))

    def _fetch(self, jobs: Sequence[SegmentJob]) -> list[Picture | ImageError]:
        """The picture of each job, or why it cannot be had. Each is fetched once, all of them at once."""
        wanted = dict.fromkeys((job.image, job.task) for job in jobs)
        together = self._threads.map if len(wanted) > 1 else map
        found = dict(zip(wanted, together(self._load, wanted), strict=True))
        return [found[job.image, job.task] for job in jobs]

    def _load(self, wanted: tuple[str, str | None]) -> Picture | ImageError:
        try:
            return self._images.load(*wanted)
        except ImageError as error:
            return error


def _question(job: SegmentJob, image: Picture) -> Request:
    return Request(image, job.prompt, tuple((turn.prompt, turn.answer) for turn in job.history))


def _result(
    job: SegmentJob,
    image: Picture,
    found: Segmentation,
    version: str,
    excuse: str | None,
    timings: Mapping[str, float],
) -> SegmentResult:
    own = {**timings, **found.timings}
    height, width = image.original
    with _timed("masks", own):
        targets = tuple(
            TargetResult(
                phrase=target.phrase, score=float(target.score), box=target.box, mask=to_rle(target.mask)
            )
            for target in found.targets
        )
    return SegmentResult(
        job_id=job.job_id,
        answer=found.answer,
        targets=targets,
        width=width,
        height=height,
        model_version=version,
        warnings=(*found.warnings, excuse) if excuse else tuple(found.warnings),
        timings=own,
    )


# RQ finds the functions by their path, so the warm engine of this process has to be found from here.
_engine: Engine | None = None


def install(engine: Engine) -> None:
    """Makes `engine` the one that answers in this process; this comes before the first job."""
    global _engine
    _engine = engine


def segment(payload: dict[str, Any]) -> dict[str, Any]:
    """Answers one `SegmentJob`, given and returned (`SegmentResult`) as JSON values."""
    (answer,) = segment_batch([payload])
    if isinstance(answer, Exception):
        raise answer
    return answer


def segment_batch(payloads: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
    """Answers several as one; a job that fails alone has its error in place of an answer."""
    assert _engine is not None
    answers = _engine.segment([SegmentJob.model_validate(payload) for payload in payloads])
    return [answer if isinstance(answer, Exception) else _logged(answer, len(answers)) for answer in answers]


def warm(payload: dict[str, Any]) -> None:
    """Does one `WarmJob`, given as JSON values."""
    assert _engine is not None
    job = WarmJob.model_validate(payload)
    timings: dict[str, float] = {}
    with _timed("warm", timings):
        _engine.warm(job)
    log.info("%s: %.2f s", job.job_id, timings["warm"])


def _logged(result: SegmentResult, together: int) -> dict[str, Any]:
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items())
    log.info("%s: %d targets, 1 of %d (%s)", result.job_id, len(result.targets), together, stages)
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
