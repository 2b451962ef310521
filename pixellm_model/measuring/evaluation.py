"""A model on annotated images, by free generation: figures, and a table of all questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pixellm_model.engine.answers import Segmentation
from pixellm_model.errors import DataError, PromptError
from pixellm_model.measuring.metrics import HIT, Scores
from pixellm_model.measuring.muse_metric import MuseScores
from pixellm_model.request import Request
from pixellm_model.samples import Question, Sample


class Answering(Protocol):
    """What is evaluated; `Segmenter` is one."""

    version: str

    def segment_batch(self, requests: Sequence[Request]) -> Sequence[Segmentation | PromptError]: ...
    def logits(self, request: Request) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class QuestionScore:
    """One row of the table. `iou` is the mean over the question's targets, 1 where nothing was asked for and
    nothing found; `seconds` is the time of its answer."""

    sample: int
    question: str
    expected: str
    answer: str
    iou: float
    true: int
    predicted: int
    seconds: float


@dataclass
class Evaluation:
    """`scores` are the figures, `muse` the reference's own if they were asked for."""

    version: str
    scores: Scores = field(default_factory=Scores)
    questions: list[QuestionScore] = field(default_factory=list)
    muse: MuseScores | None = None
    skipped: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """What is reported; latency is per prompt, with its image's share in the first."""
        seconds = np.array([question.seconds for question in self.questions] or [0.0])
        figures = {
            **self.scores.as_dict(),
            "seconds_p50": round(float(np.percentile(seconds, 50)), 4),
            "seconds_p95": round(float(np.percentile(seconds, 95)), 4),
        }
        if self.muse is not None:
            figures |= {"muse_gIoU": round(self.muse.giou, 4), "muse_cIoU": round(self.muse.ciou, 4)}
        return figures

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "model_version": self.version,
            "hit_iou": HIT,
            "figures": self.figures(),
            "skipped": self.skipped,
            "questions": [asdict(question) for question in self.questions],
        }


Watcher = Callable[[Sample, Question, Segmentation, QuestionScore], None]


def evaluate(
    segmenter: Answering, samples: Iterable[Sample], compat: bool = False, watch: Watcher | None = None
) -> Evaluation:
    """Ask every question of every sample and compare.

    A prompt the model does not take counts as answered with nothing. `compat` adds the reference's MUSE
    figures (one more pass a question, for its logits). `watch` is told of each answer. Raises DataError when
    there is no question at all.
    """
    found = Evaluation(segmenter.version, muse=MuseScores(np.random.default_rng(0)) if compat else None)
    for number, sample in enumerate(samples):
        image = Image.fromarray(sample.image)
        raw: list[tuple[np.ndarray, np.ndarray]] = []
        for question in sample.questions:
            request = Request(image, question.text, question.history)
            began = time.perf_counter()
            (answered,) = segmenter.segment_batch([request])
            seconds = time.perf_counter() - began
            if isinstance(answered, PromptError):
                answered = Segmentation(str(answered), ())
            # A target of which nothing was drawn is shown to nobody.
            masks = [target.mask for target in answered.targets if target.mask.any()]
            iou = found.scores.add(masks, question.masks)
            row = QuestionScore(
                sample=number,
                question=question.text,
                expected=question.answer,
                answer=answered.answer,
                iou=1.0 if iou is None else iou,
                true=len(question.masks),
                predicted=len(masks),
                seconds=seconds,
            )
            found.questions.append(row)
            if watch is not None:
                watch(sample, question, answered, row)
            if found.muse is not None:
                raw.append((_stacked(segmenter.logits(request), sample), _stacked(question.masks, sample)))
        if found.muse is not None:
            found.muse.add(raw)
    if not found.questions:
        raise DataError("There is no question to evaluate on; give a data set with at least one.")
    return found


def _stacked(masks: Sequence[np.ndarray], sample: Sample) -> np.ndarray:
    return np.stack(masks) if len(masks) else np.zeros((0, *sample.image.shape[:2]), np.float32)
