"""Webhooks, kept the moment they come: Label Studio waits one second and never sends one again."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Retry
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from backend.job_names import CORRECTIONS_QUEUE, PROCESS_EVENT
from worker.store import runs
from worker.store.database import Database, DatabaseUnavailable
from worker.store.tables import Event

log = logging.getLogger(__name__)

KEPT_ACTIONS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATIONS_DELETED",
        "TASKS_DELETED",
        "PROJECT_UPDATED",
        "START_TRAINING",
    }
)
EVENT_TIMEOUT_S = 300
SPOOL_LOOK_S = 5.0


class Inbox:
    """Takes events from any thread. What the database does not take now waits in files of `spool`."""

    def __init__(self, database: Database, connection: Redis, spool: Path) -> None:
        self._database = database
        self._connection = connection
        self._spool = spool
        self._empty_until = 0.0
        self._one_at_a_time = threading.Lock()

    def take(self, action: str, project: str | None, body: bytes) -> None:
        """Keeps an event and has it understood. The same one again changes nothing."""
        if action not in KEPT_ACTIONS:
            return
        # Pressing the button again is asking again, though the request be the same.
        salt = uuid4().bytes if action == "START_TRAINING" else b""
        digest = hashlib.sha256(salt + body).hexdigest()
        try:
            self._keep(digest, action, project, body.decode("utf-8"))
            self.empty_spool()
        except IntegrityError:  # the same event came twice at once, and the other one is kept
            log.debug("event %s is kept already", digest)
        except DatabaseUnavailable as error:
            log.warning("the event waits in %s: %s", self._spool, error)
            self._spool.mkdir(parents=True, exist_ok=True)
            beside = self._spool / f"{digest}.part"
            beside.write_text(json.dumps({"action": action, "project": project, "body": body.decode()}))
            beside.rename(beside.with_suffix(".json"))
            self._empty_until = 0.0

    def _keep(self, digest: str, action: str, project: str | None, body: str) -> None:
        with self._database.session() as session:
            if session.scalar(select(Event.id).where(Event.digest == digest)) is not None:
                return
            event = Event(digest=digest, action=action, project=project, body=body)
            session.add(event)
            session.flush()
            number = event.id
        with _redis_may_be_out(f"event {number}"):
            if action == "START_TRAINING" and project:
                runs.request(self._database, self._connection, project, "asked for in Label Studio")
            enqueue_event(self._connection, number)

    def empty_spool(self) -> None:
        """Gives the database what it could not take before. Raises DatabaseUnavailable."""
        if time.monotonic() < self._empty_until or not self._one_at_a_time.acquire(blocking=False):
            return
        try:
            for path in sorted(self._spool.glob("*.json")):
                try:
                    waiting = json.loads(path.read_text())
                except FileNotFoundError:  # another process was faster
                    continue
                self._keep(path.stem, waiting["action"], waiting["project"], waiting["body"])
                path.unlink(missing_ok=True)
            self._empty_until = time.monotonic() + SPOOL_LOOK_S
        finally:
            self._one_at_a_time.release()


def enqueue_event(connection: Redis, event: int) -> None:
    """Has `backend.corrections.collector` understand an event."""
    Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json").enqueue_call(
        PROCESS_EVENT,
        args=(event,),
        job_id=f"event-{event}",
        timeout=EVENT_TIMEOUT_S,
        result_ttl=0,
        failure_ttl=3600,
        retry=Retry(max=2),
        description=f"event {event}",
    )


@contextmanager
def _redis_may_be_out(what: str) -> Iterator[None]:
    """What is kept in the database is found there later (`collector.requeue_overdue`)."""
    try:
        yield
    except RedisError as error:
        log.warning("%s is kept and waits for Redis: %s", what, error)
