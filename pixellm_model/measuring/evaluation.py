"""Evaluation of a model on annotated images by free generation: metrics, and a table of all questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixellm_model.engine.answers import Segmentation
from pixellm_model.errors import DataError, PromptError
from pixellm_model.measuring.metrics import HIT, Scores
from pixellm_model.measuring.muse_metric import MuseScores
from pixellm_model.request import Request
from pixellm_model.samples import Question, Sample


class SegmentationModel(Protocol):
    """What is evaluated, such as a `Segmenter`."""

    version: str

    def segment_batch(self, requests: Sequence[Request]) -> Sequence[Segmentation | PromptError]:
        """Answer several prompts, in order."""
        ...

    def logits(self, request: Request) -> list[npt.NDArray[np.float32]]:
        """Return the mask logits of the request's targets, (N, H, W) at the photo's size."""
        ...


@dataclass(frozen=True)
class QuestionScore:
    """One row of the table.

    Attributes:
        sample: Number of the sample.
        question: What was asked.
        expected: The true answer.
        answer: The model's answer, or why it refused the prompt.
        iou: Mean IoU over the question's masks; 1 if there is none to find and none was predicted.
        true: Number of true masks.
        predicted: Number of predicted masks that are not empty.
        seconds: Time of the answer.
    """

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
    """The outcome of an evaluation.

    Attributes:
        version: The model's version.
        scores: The metrics.
        questions: One row per question.
        muse: The reference's MUSE metric, if it was asked for.
        skipped: Records that could not be read, and why.
    """

    version: str
    scores: Scores = field(default_factory=Scores)
    questions: list[QuestionScore] = field(default_factory=list)
    muse: MuseScores | None = None
    skipped: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """All metrics; latencies are per prompt, an image's encoding included in its first."""
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
        """Everything as JSON values."""
        return {
            "model_version": self.version,
            "hit_iou": HIT,
            "figures": self.figures(),
            "skipped": self.skipped,
            "questions": [asdict(question) for question in self.questions],
        }


AnswerCallback = Callable[[Sample, Question, Segmentation, QuestionScore], None]


def evaluate(
    segmenter: SegmentationModel,
    samples: Iterable[Sample],
    compat: bool = False,
    on_answer: AnswerCallback | None = None,
) -> Evaluation:
    """Ask a model every question of every sample and compare its masks with the true ones.

    A prompt that the model refuses counts as answered without a mask, and so does an empty mask.

    Args:
        segmenter: The model.
        samples: What to ask.
        compat: Compute the reference's MUSE metric too; takes a second pass per question.
        on_answer: Called after each answer.

    Returns:
        Metrics and one row per question.

    Raises:
        DataError: The samples have no question.
    """
    muse = MuseScores(rng=np.random.default_rng(0)) if compat else None
    evaluation = Evaluation(segmenter.version, muse=muse)
    for number, sample in enumerate(samples):
        image = Image.fromarray(sample.image)
        logits = []
        for question in sample.questions:
            request = Request(image, question.text, question.history)
            segmentation, row = _ask(segmenter, request, question, number, evaluation.scores)
            evaluation.questions.append(row)
            if on_answer is not None:
                on_answer(sample, question, segmentation, row)
            if muse is not None:
                logits.append(
                    (
                        _stack_or_empty(segmenter.logits(request), sample),
                        _stack_or_empty(question.masks, sample),
                    )
                )
        if muse is not None:
            muse.add(logits)
    if not evaluation.questions:
        raise DataError("There is no question to evaluate on; give a data set with at least one.")
    return evaluation


def _ask(
    segmenter: SegmentationModel, request: Request, question: Question, sample: int, scores: Scores
) -> tuple[Segmentation, QuestionScore]:
    began = time.perf_counter()
    (answer,) = segmenter.segment_batch([request])
    seconds = time.perf_counter() - began
    segmentation = Segmentation(str(answer), ()) if isinstance(answer, PromptError) else answer
    # Empty masks are never shown to annotators, so they count as no mask.
    targets = [target for target in segmentation.targets if target.mask.any()]
    masks = [target.mask for target in targets]
    iou = scores.add(masks, question.masks, [target.score for target in targets])
    row = QuestionScore(
        sample=sample,
        question=question.text,
        expected=question.answer,
        answer=segmentation.answer,
        iou=1.0 if iou is None else iou,
        true=len(question.masks),
        predicted=len(masks),
        seconds=seconds,
    )
    return segmentation, row


def _stack_or_empty(masks: Sequence[npt.NDArray[Any]], sample: Sample) -> npt.NDArray[Any]:
    return np.stack(masks) if len(masks) else np.zeros((0, *sample.image.shape[:2]), np.float32)
