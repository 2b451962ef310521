"""The status that each live worker publishes in Redis for the backend."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import BaseModel, ConfigDict
from redis import Redis

NAMES_KEY = "pixellm:workers"
STATUS_TTL_S = 10


class WorkerStatus(BaseModel):
    """The status of one worker process. `model_version` and `device` are None until it is ready."""

    model_config = ConfigDict(frozen=True)

    name: str
    host: str
    pid: int
    state: Literal["loading", "ready"] = "loading"
    model_version: str | None = None
    device: str | None = None
    follows_up: bool = False

    @property
    def key(self) -> str:
        """Where Redis holds it."""
        return f"pixellm:worker:{self.name}"


def publish(connection: Redis, status: WorkerStatus) -> None:
    """Publish the status of a live worker. It expires after STATUS_TTL_S; repeat the call well within."""
    with connection.pipeline() as pipe:
        pipe.sadd(NAMES_KEY, status.name)
        pipe.set(status.key, status.model_dump_json(), ex=STATUS_TTL_S)
        pipe.execute()


def withdraw(connection: Redis, status: WorkerStatus) -> None:
    """Remove the status of a worker that ends."""
    with connection.pipeline() as pipe:
        pipe.srem(NAMES_KEY, status.name)
        pipe.delete(status.key)
        pipe.execute()


def live_workers(connection: Redis) -> tuple[WorkerStatus, ...]:
    """The status of every live worker, ready ones first, otherwise by name."""
    names = sorted(name.decode() for name in cast(set[bytes], connection.smembers(NAMES_KEY)))
    if not names:
        return ()
    values = connection.mget([f"pixellm:worker:{name}" for name in names])
    if expired := [name for name, value in zip(names, values, strict=True) if value is None]:
        connection.srem(NAMES_KEY, *expired)
    live = [WorkerStatus.model_validate_json(value) for value in values if value is not None]
    return tuple(sorted(live, key=lambda status: status.state != "ready"))
