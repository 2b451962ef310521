"""The job contract between backend and worker: requests and results as they travel through the queue.

Both sides import it, so it needs neither torch nor Redis. Everything is JSON: RQ uses its JSON serializer,
because a pickle in a shared queue would be remote code execution.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

CONTRACT_VERSION: Final = 1
MAX_PROMPT_CHARS = 2000
MAX_CLICKS = 64
Priority = Literal["interactive", "batch"]
Adjustment = Literal["tighter", "looser", "whole"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Message):
    """An earlier prompt about the same image and the model's answer, without codebook tokens."""

    prompt: str = Field(max_length=MAX_PROMPT_CHARS)
    answer: str


class CocoRLE(_Message):
    """A mask in pycocotools' compressed run-length encoding; `size` is (height, width)."""

    size: tuple[int, int]
    counts: str


class Click(_Message):
    """A point that an annotator clicked.

    Attributes:
        x: Pixels from the image's left edge.
        y: Pixels from its upper edge.
        positive: Whether the point belongs to the object; False if it does not.
    """

    x: float
    y: float
    positive: bool = True


class SegmentJob(_Message):
    """A prompt about one image, or clicks on one object of it.

    Attributes:
        version: The version of this contract.
        image: The image as the task holds it: an http(s) URL, a Label Studio path (`/data/upload/...`,
            `/data/local-files/?d=...`) or a `data:` URL.
        prompt: What to segment, in words.
        history: Earlier turns about the image, oldest first.
        model_version: The version that serves the project, as the backend saw it. It is part of the job's
            identity, so that a newly promoted version computes the answer again.
        priority: `interactive` while an annotator waits, else `batch`.
        project: The number of the project in Label Studio.
        task: The number of the task in Label Studio.
        clicks: With these or a `box` the job corrects or begins the mask of one object, and `prompt` only
            names it.
        box: x0, y0, x1, y1 in pixels, end exclusive; the object lies within.
        mask: The object's current mask; None to begin one.
        adjust: With this the job changes `mask` without clicks: along the image's edges, or to the whole
            object.
    """

    version: Literal[1] = CONTRACT_VERSION
    image: str = Field(min_length=1)
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    history: tuple[Turn, ...] = ()
    model_version: str | None = None
    priority: Priority = "interactive"
    project: str | None = None
    task: str | None = None
    clicks: tuple[Click, ...] = Field((), max_length=MAX_CLICKS)
    box: tuple[float, float, float, float] | None = None
    mask: CocoRLE | None = None
    adjust: Adjustment | None = None

    @property
    def refines(self) -> bool:
        """Whether it is about one object's mask instead of words."""
        return bool(self.clicks or self.box or self.adjust)

    @property
    def job_id(self) -> str:
        """RQ's id of the job: a hash of what determines the answer, so that equal prompts are one job."""
        fields = {"version", "image", "prompt", "history", "model_version"}
        if self.refines:
            fields |= {"clicks", "box", "mask", "adjust"}
        identity = self.model_dump_json(include=fields)
        return "seg-" + hashlib.sha256(identity.encode()).hexdigest()[:32]


class WarmJob(_Message):
    """An image for which a prompt is likely to follow soon; the fields are those of SegmentJob.

    It has no result: the worker computes and caches what depends on the image alone.
    """

    version: Literal[1] = CONTRACT_VERSION
    image: str = Field(min_length=1)
    model_version: str | None = None
    project: str | None = None
    task: str | None = None

    @property
    def job_id(self) -> str:
        """RQ's id of the job: equal for the same image and version, so that it is warmed once."""
        identity = self.model_dump_json(include={"version", "image", "model_version"})
        return "warm-" + hashlib.sha256(identity.encode()).hexdigest()[:32]


class TargetResult(_Message):
    """One segmented target.

    Attributes:
        phrase: The words of the answer that name it.
        score: Mean confidence inside the mask, 0..1.
        box: x0, y0, x1, y1 in pixels, end exclusive; all 0 for an empty mask.
        mask: The mask, of the image's size.
    """

    phrase: str
    score: float
    box: tuple[int, int, int, int]
    mask: CocoRLE


class SegmentResult(_Message):
    """The model's answer to a SegmentJob.

    Attributes:
        version: The version of this contract.
        job_id: The id of the job.
        answer: The model's text, with `[1]`, `[2]` where it named target 1, 2.
        targets: The targets, in the order of the answer.
        width: The image's width in pixels.
        height: The image's height in pixels.
        model_version: The version that answered.
        warnings: Sentences for the annotator.
        timings: Seconds per stage.
        unknown: Names in the prompt that the model was never taught; their absence means nothing.
    """

    version: Literal[1] = CONTRACT_VERSION
    job_id: str
    answer: str
    targets: tuple[TargetResult, ...]
    width: int
    height: int
    model_version: str
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = Field(default_factory=dict)
    unknown: tuple[str, ...] = ()
