"""Which predictions of batches are still owed to Label Studio, kept in Redis so that a restart loses none.

Each is leased by the backend process that follows it and renews the lease. What a dead process leaves behind
is taken over by the next one to look.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

import redis.exceptions
from pydantic import BaseModel, ValidationError
from redis import Redis

from label_config import ConfigError, LabelConfig, read_config
from worker.jobs.contract import SegmentJob
from worker.jobs.queue import QueueUnavailable

LEASES = "pixellm:late"  # id -> when its lease ends, in seconds since 1970
ENTRIES = "pixellm:late:entries"  # id -> PendingPrediction as JSON
CONFIGS = "pixellm:late:configs"  # hash -> labeling configuration
LEASE_S = 15.0
MAX_TAKEN = 500  # at once

_TAKE = """
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], ARGV[2], id) end
return ids
"""
# The configurations go with the last entry.
_REMOVE = """
for _, id in ipairs(ARGV) do redis.call('ZREM', KEYS[1], id); redis.call('HDEL', KEYS[2], id) end
if redis.call('ZCARD', KEYS[1]) == 0 then redis.call('DEL', KEYS[2], KEYS[3]) end
"""


class PendingPrediction(BaseModel, frozen=True):
    """A task of a batch whose prediction Label Studio does not have yet.

    Attributes:
        task: Label Studio's id of the task.
        job: The job that was made for it.
        label_config: The project's labeling configuration.
        data: What the configuration takes from the task's data, except images.
        until: When to give up, in seconds since 1970.
    """

    task: int
    job: SegmentJob
    label_config: str
    data: dict[str, Any]
    until: float

    @property
    def key(self) -> tuple[int, str, str]:
        """What identifies the question: the task, its image and the prompt."""
        return self.task, self.job.image, self.job.prompt

    @property
    def id(self) -> str:
        """A short name of the key."""
        return hashlib.sha256(repr(self.key).encode("utf-8", "replace")).hexdigest()[:32]

    @property
    def config(self) -> LabelConfig:
        """The labeling configuration with what depends on the task."""
        return read_config(self.label_config).for_task(self.data)


class PendingStore:
    """Keeps pending predictions. All methods are synchronous and raise QueueUnavailable without Redis."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._take = connection.register_script(_TAKE)
        self._remove = connection.register_script(_REMOVE)

    def keep(self, predictions: Sequence[PendingPrediction]) -> None:
        """Store predictions and lease them to the caller."""
        if not predictions:
            return
        lease = time.time() + LEASE_S
        configs = {_digest(pending.label_config): pending.label_config for pending in predictions}
        entries = {
            pending.id: pending.model_copy(
                update={"label_config": _digest(pending.label_config)}
            ).model_dump_json()
            for pending in predictions
        }
        with _Available(), self._connection.pipeline() as pipe:
            for key, values in ((CONFIGS, configs), (ENTRIES, entries)):
                pipe.hset(key, items=[text for pair in values.items() for text in pair])
            pipe.zadd(LEASES, dict.fromkeys(entries, lease))
            pipe.execute()

    def renew(self, ids: Iterable[str]) -> None:
        """Lease predictions again, except those that are gone."""
        if leases := dict.fromkeys(ids, time.time() + LEASE_S):
            with _Available():
                self._connection.zadd(LEASES, leases, xx=True)

    def release(self, ids: Iterable[str]) -> None:
        """End leases, so that another process takes the predictions over at once."""
        if leases := dict.fromkeys(ids, 0.0):
            with _Available():
                self._connection.zadd(LEASES, leases, xx=True)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget predictions that were delivered or are given up."""
        if ids:
            with _Available():
                self._remove(keys=[LEASES, ENTRIES, CONFIGS], args=list(ids))

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def take_over(self) -> list[PendingPrediction]:
        """Lease predictions that nobody follows any more, at most MAX_TAKEN.

        Returns:
            Those that can be read; others, and those whose time is over, are removed.
        """
        now = time.time()
        with _Available():
            ids = [
                name.decode("utf-8", "replace")
                for name in self._take(keys=[LEASES], args=[now, now + LEASE_S, MAX_TAKEN])
            ]
            if not ids:
                return []
            entries = cast(list[bytes | None], self._connection.hmget(ENTRIES, ids))
            stored = cast(dict[bytes, bytes], self._connection.hgetall(CONFIGS))
        configs = {
            name.decode("utf-8", "replace"): text.decode("utf-8", "replace") for name, text in stored.items()
        }
        found = [_restored(entry, configs) for entry in entries]
        taken = [pending for pending in found if pending is not None and pending.until > now]
        self.remove(sorted(set(ids) - {pending.id for pending in taken}))
        return taken


class _Available:
    """A context in which Redis' errors are QueueUnavailable."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, redis.exceptions.RedisError):
            raise QueueUnavailable(f"The queue's Redis (REDIS_URL) cannot be used: {error}") from error


def _restored(entry: bytes | None, configs: dict[str, str]) -> PendingPrediction | None:
    try:
        pending = PendingPrediction.model_validate_json(entry or b"")
        pending = pending.model_copy(update={"label_config": configs[pending.label_config]})
        assert pending.config
    except (ValidationError, KeyError, ConfigError):
        return None
    return pending


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
