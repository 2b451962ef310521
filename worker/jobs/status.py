"""What each worker says about itself in Redis, for as long as it is alive; the backend reads it."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import BaseModel, ConfigDict
from redis import Redis

NAMES_KEY = "pixellm:workers"
STATUS_TTL_S = 10


class WorkerStatus(BaseModel):
    """One worker process. `model_version` and `device` are known once it is ready."""

    model_config = ConfigDict(frozen=True)

    name: str
    host: str
    pid: int
    state: Literal["loading", "ready"] = "loading"
    model_version: str | None = None
    device: str | None = None

    @property
    def key(self) -> str:
        return f"pixellm:worker:{self.name}"


def publish(connection: Redis, status: WorkerStatus) -> None:
    """To be repeated well within `STATUS_TTL_S`: a worker that stops saying so is gone."""
    with connection.pipeline() as pipe:
        pipe.sadd(NAMES_KEY, status.name)
        pipe.set(status.key, status.model_dump_json(), ex=STATUS_TTL_S)
        pipe.execute()


def withdraw(connection: Redis, status: WorkerStatus) -> None:
    with connection.pipeline() as pipe:
        pipe.srem(NAMES_KEY, status.name)
        pipe.delete(status.key)
        pipe.execute()


def published(connection: Redis) -> tuple[WorkerStatus, ...]:
    """The living workers, those that are ready first."""
    names = sorted(name.decode() for name in cast(set[bytes], connection.smembers(NAMES_KEY)))
    if not names:
        return ()
    values = connection.mget([f"pixellm:worker:{name}" for name in names])
    if gone := [name for name, value in zip(names, values, strict=True) if value is None]:
        connection.srem(NAMES_KEY, *gone)
    alive = [WorkerStatus.model_validate_json(value) for value in values if value is not None]
    return tuple(sorted(alive, key=lambda status: status.state != "ready"))
