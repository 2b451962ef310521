"""Stores webhooks at once: Label Studio waits one second for the response and never sends one again."""

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

STORED_ACTIONS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATIONS_DELETED",
        "TASKS_DELETED",
        "START_TRAINING",
    }
)
SPOOL_FOLDER = "inbox"  # in DATA_DIR
EVENT_TIMEOUT_S = 300
EVENT_RETRIES = 2
EVENT_FAILURE_TTL_S = 3600
SPOOL_CHECK_S = 5.0


class WebhookInbox:
    """Stores events; thread-safe.

    While the database is unavailable, events are written to files in a spool folder, and from there to the
    database as soon as possible.
    """

    def __init__(self, database: Database, connection: Redis, data_dir: Path) -> None:
        self._database = database
        self._connection = connection
        self._spool = data_dir / SPOOL_FOLDER
        self._spool_checked_until = 0.0
        self._spool_lock = threading.Lock()

    def store(self, action: str, project: str | None, body: bytes) -> None:
        """Store an event and queue the job that processes it.

        Storing the same event again has no effect. Actions outside STORED_ACTIONS are ignored.

        Args:
            action: Label Studio's name of the event.
            project: The project's id, if the event has one.
            body: The request's body as it came.

        Raises:
            UnicodeDecodeError: The body is not UTF-8.
            OSError: Neither the database nor the spool folder can be written.
        """
        if action not in STORED_ACTIONS:
            return
        # Pressing Start Training twice sends the same body, and both times mean a training.
        salt = uuid4().bytes if action == "START_TRAINING" else b""
        body_hash = hashlib.sha256(salt + body).hexdigest()
        try:
            self._insert(body_hash, action, project, body.decode("utf-8"))
            self.flush_spool()
        except IntegrityError:  # the same event came twice at once; the other one is stored
            log.debug("event %s is stored already", body_hash)
        except DatabaseUnavailable as error:
            log.warning("the event waits in %s: %s", self._spool, error)
            self._write_to_spool(body_hash, action, project, body.decode("utf-8"))

    def flush_spool(self) -> None:
        """Store the events that wait in the spool folder; it is read every SPOOL_CHECK_S at most.

        Raises:
            DatabaseUnavailable: The database is still unavailable.
        """
        if time.monotonic() < self._spool_checked_until or not self._spool_lock.acquire(blocking=False):
            return
        try:
            for path in sorted(self._spool.glob("*.json")):
                try:
                    event = json.loads(path.read_text())
                except FileNotFoundError:  # another process was faster
                    continue
                self._insert(path.stem, event["action"], event["project"], event["body"])
                path.unlink(missing_ok=True)
            self._spool_checked_until = time.monotonic() + SPOOL_CHECK_S
        finally:
            self._spool_lock.release()

    def _write_to_spool(self, body_hash: str, action: str, project: str | None, body: str) -> None:
        self._spool.mkdir(parents=True, exist_ok=True)
        temporary_path = self._spool / f"{body_hash}.part"
        temporary_path.write_text(json.dumps({"action": action, "project": project, "body": body}))
        temporary_path.rename(temporary_path.with_suffix(".json"))
        self._spool_checked_until = 0.0

    def _insert(self, body_hash: str, action: str, project: str | None, body: str) -> None:
        with self._database.session() as session:
            if session.scalar(select(Event.id).where(Event.body_hash == body_hash)) is not None:
                return
            event = Event(body_hash=body_hash, action=action, project=project, body=body)
            session.add(event)
            session.flush()
            event_id = event.id
        with _redis_errors_logged(f"event {event_id}"):
            if action == "START_TRAINING" and project:
                runs.request(self._database, self._connection, project, "asked for in Label Studio")
            enqueue_event(self._connection, event_id)


def enqueue_event(connection: Redis, event_id: int) -> None:
    """Queue the job that processes a stored event.

    Raises:
        RedisError: Redis cannot be used.
    """
    Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json").enqueue_call(
        PROCESS_EVENT,
        args=(event_id,),
        job_id=f"event-{event_id}",
        timeout=EVENT_TIMEOUT_S,
        result_ttl=0,
        failure_ttl=EVENT_FAILURE_TTL_S,
        retry=Retry(max=EVENT_RETRIES),
        description=f"event {event_id}",
    )


@contextmanager
def _redis_errors_logged(what: str) -> Iterator[None]:
    """Log errors of Redis only: what is in the database is queued later (`jobs.requeue_overdue`)."""
    try:
        yield
    except RedisError as error:
        log.warning("%s is stored and waits for Redis: %s", what, error)
