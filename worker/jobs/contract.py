"""The job contract between the backend and the worker: what is asked, what comes back.

Both sides import it, so it needs neither torch nor Redis. Everything is JSON: RQ runs with its JSON
serializer, because a pickle in a shared queue is remote code execution.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

CONTRACT_VERSION: Final = 1
MAX_PROMPT_CHARS = 2000
Priority = Literal["interactive", "batch"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Message):
    """One earlier question about the same image and the model's answer, codebook tokens left out."""

    prompt: str = Field(max_length=MAX_PROMPT_CHARS)
    answer: str


class SegmentJob(_Message):
    """A prompt about one image.

    `image` is what the task holds: an http(s) URL, a Label Studio path (`/data/upload/...`,
    `/data/local-files/?d=...`) or a `data:` URL. `model_version` is the version the backend saw serving;
    it is part of the identity, so that a promoted version answers afresh.
    """

    version: Literal[1] = CONTRACT_VERSION
    image: str = Field(min_length=1)
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    history: tuple[Turn, ...] = ()
    model_version: str | None = None
    priority: Priority = "interactive"
    project: str | None = None
    task: str | None = None

    @property
    def job_id(self) -> str:
        """Identity of the computation: the same question asked twice is one job (RQ's id alphabet)."""
        asked = self.model_dump_json(include={"version", "image", "prompt", "history", "model_version"})
        return "seg-" + hashlib.sha256(asked.encode()).hexdigest()[:32]


class WarmJob(_Message):
    """An image about which somebody is likely to ask soon; `image` and `model_version` are as in SegmentJob.
    It has no answer: the worker only prepares for the prompt to come."""

    version: Literal[1] = CONTRACT_VERSION
    image: str = Field(min_length=1)
    model_version: str | None = None
    project: str | None = None
    task: str | None = None

    @property
    def job_id(self) -> str:
        """The same image opened twice is warmed once."""
        named = self.model_dump_json(include={"version", "image", "model_version"})
        return "warm-" + hashlib.sha256(named.encode()).hexdigest()[:32]


class CocoRLE(_Message):
    """A mask as pycocotools compresses it; `size` is (height, width)."""

    size: tuple[int, int]
    counts: str


class TargetResult(_Message):
    """One target: `phrase` named it, `score` is in 0..1, `box` is x0, y0, x1, y1 in pixels, end exclusive."""

    phrase: str
    score: float
    box: tuple[int, int, int, int]
    mask: CocoRLE


class SegmentResult(_Message):
    """The model's answer. `warnings` are sentences for the annotator; `timings` are seconds per stage."""

    version: Literal[1] = CONTRACT_VERSION
    job_id: str
    answer: str
    targets: tuple[TargetResult, ...]
    width: int
    height: int
    model_version: str
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = Field(default_factory=dict)
