"""The body of Label Studio's /predict requests, as far as it is read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

MAX_TASKS = 10_000


class Task(BaseModel):
    """A Label Studio task.

    Attributes:
        id: Its number.
        data: Its fields, among them the image's address.
        drafts: The drafts of the annotator who sends the request.
    """

    id: int
    data: dict[str, Any]
    drafts: list[dict[str, Any]] = []


class Context(BaseModel):
    """What the editor adds to an interactive request: the regions and texts on the screen."""

    result: list[dict[str, Any]] = []


class Params(BaseModel):
    """The request's parameters; only the context is used."""

    context: Context | None = None


class PredictRequest(BaseModel):
    """The body of /predict; further fields are ignored."""

    tasks: list[Task] = Field(max_length=MAX_TASKS)
    label_config: str
    project: str | None = None
    params: Params | None = None

    @property
    def context(self) -> Context | None:
        """The context of an interactive request; None for a batch."""
        return self.params.context if self.params else None
