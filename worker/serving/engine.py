"""The functions that RQ calls for a job: `segment` and `warm`, and the engine of models behind them."""

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
from worker.serving.image_cache import PreparedImageSource
from worker.serving.model import Model, ModelAnswer
from worker.serving.refine import refine
from worker.serving.versions import Versions

log = logging.getLogger(__name__)


class Engine:
    """Answers jobs with the models of `versions`."""

    def __init__(self, versions: Versions, images: PreparedImageSource, batch_size: int) -> None:
        """Set up the engine.

        Args:
            versions: The models.
            images: Where images come from.
            batch_size: How many images are fetched at the same time.
        """
        self._versions = versions
        self._images = images
        self._threads = ThreadPoolExecutor(batch_size, thread_name_prefix="fetch")

    def segment(self, jobs: Sequence[SegmentJob]) -> list[SegmentResult | ImageError | PromptError]:
        """Answer several jobs, with one call of the model for each version they name.

        Args:
            jobs: The prompts.

        Returns:
            For each job, in order, the result, or the reason why its image cannot be had or its prompt not be
            taken.

        Raises:
            Exception: Whatever the model raises; then no job is answered.
        """
        fetch_timings: dict[str, float] = {}
        with _timed("fetch", fetch_timings):
            images = self._fetch(jobs)
        results: dict[int, SegmentResult | ImageError | PromptError] = {}
        pictures: dict[int, Picture] = {}
        for index, image in enumerate(images):
            if isinstance(image, ImageError):
                results[index] = image
            else:
                pictures[index] = image
        for version in dict.fromkeys(jobs[index].model_version for index in pictures):
            model, warning = self._versions.model_for(version)
            indices = [index for index in pictures if jobs[index].model_version == version]
            answers = _answers(
                model, [jobs[index] for index in indices], [pictures[index] for index in indices]
            )
            for index, answer in zip(indices, answers, strict=True):
                results[index] = (
                    answer
                    if isinstance(answer, PromptError)
                    else _result(jobs[index], pictures[index], answer, model.version, warning, fetch_timings)
                )
        return [results[index] for index in range(len(jobs))]

    def warm(self, job: WarmJob) -> None:
        """Prepare for prompts about an image.

        Args:
            job: The image and the version.

        Raises:
            ImageError: The image cannot be fetched or decoded.
        """
        model, _ = self._versions.model_for(job.model_version)
        model.warm(self._images.load(job.image, job.task))

    def _fetch(self, jobs: Sequence[SegmentJob]) -> list[Picture | ImageError]:
        """The image of each job, or why it cannot be had. Each is fetched once, all at the same time."""
        references = dict.fromkeys((job.image, job.task) for job in jobs)
        run = self._threads.map if len(references) > 1 else map
        loaded = dict(zip(references, run(self._load, references), strict=True))
        return [loaded[job.image, job.task] for job in jobs]

    def _load(self, reference_and_task: tuple[str, str | None]) -> Picture | ImageError:
        try:
            return self._images.load(*reference_and_task)
        except ImageError as error:
            return error


def _answers(
    model: Model, jobs: Sequence[SegmentJob], pictures: Sequence[Picture]
) -> Iterator[ModelAnswer | PromptError]:
    """The answers to `jobs`, in order: prompts together in one call, clicks each on its own."""
    prompts = [_request(job, picture) for job, picture in zip(jobs, pictures, strict=True) if not job.refines]
    answered = iter(model.segment_batch(prompts) if prompts else ())
    for job, picture in zip(jobs, pictures, strict=True):
        yield refine(model, job, picture) if job.refines else next(answered)


def _request(job: SegmentJob, image: Picture) -> Request:
    return Request(image, job.prompt, tuple((turn.prompt, turn.answer) for turn in job.history))


def _result(
    job: SegmentJob,
    image: Picture,
    answer: ModelAnswer,
    version: str,
    warning: str | None,
    fetch_timings: Mapping[str, float],
) -> SegmentResult:
    timings = {**fetch_timings, **answer.timings}
    height, width = image.original
    with _timed("masks", timings):
        targets = tuple(
            TargetResult(
                phrase=target.phrase, score=float(target.score), box=target.box, mask=to_rle(target.mask)
            )
            for target in answer.targets
        )
    return SegmentResult(
        job_id=job.job_id,
        answer=answer.answer,
        targets=targets,
        width=width,
        height=height,
        model_version=version,
        warnings=(*answer.warnings, warning) if warning else tuple(answer.warnings),
        timings=timings,
        unknown=tuple(answer.unknown),
    )


# RQ finds the functions below by their path, so this process's engine must be reachable from this module.
_engine: Engine | None = None


def install(engine: Engine) -> None:
    """Make `engine` the one that answers in this process; call it before the first job."""
    global _engine
    _engine = engine


def segment(payload: dict[str, Any]) -> dict[str, Any]:
    """Run one segmentation job; RQ calls it.

    Args:
        payload: A `SegmentJob` as JSON values.

    Returns:
        The `SegmentResult` as JSON values.

    Raises:
        ImageError: The image cannot be fetched or decoded.
        PromptError: The model cannot take the prompt.
    """
    (result,) = segment_batch([payload])
    if isinstance(result, Exception):
        raise result
    return result


def segment_batch(payloads: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
    """Run several segmentation jobs as one batch.

    Args:
        payloads: `SegmentJob`s as JSON values.

    Returns:
        For each job, in order, its `SegmentResult` as JSON values, or the exception that it raises.
    """
    assert _engine is not None
    results = _engine.segment([SegmentJob.model_validate(payload) for payload in payloads])
    return [result if isinstance(result, Exception) else _logged(result, len(results)) for result in results]


def warm(payload: dict[str, Any]) -> None:
    """Run one warm job; RQ calls it.

    Args:
        payload: A `WarmJob` as JSON values.

    Raises:
        ImageError: The image cannot be fetched or decoded.
    """
    assert _engine is not None
    job = WarmJob.model_validate(payload)
    timings: dict[str, float] = {}
    with _timed("warm", timings):
        _engine.warm(job)
    log.info("%s: %.2f s", job.job_id, timings["warm"])


def _logged(result: SegmentResult, batch_size: int) -> dict[str, Any]:
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items())
    log.info("%s: %d targets, 1 of %d (%s)", result.job_id, len(result.targets), batch_size, stages)
    return result.model_dump(mode="json")


def error_message(error: BaseException) -> str:
    """The sentence that the caller of a job is told when it raised `error`."""
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
