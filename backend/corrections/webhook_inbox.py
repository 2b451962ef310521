"""Stores webhooks at once: Label Studio waits one second for the response and never sends one again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
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
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from backend.job_names import CORRECTIONS_QUEUE, PROCESS_EVENT
from worker.settings import Settings
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
        "PROJECT_DELETED",
        "START_TRAINING",
    }
)
SPOOL_FOLDER = "inbox"  # in DATA_DIR
# Suffixes of spooled files: complete, being written, and such that cannot be taken, kept for people.
COMPLETE, UNFINISHED, DAMAGED = ".json", ".part", ".damaged"
EVENT_TIMEOUT_S = 300
JOB_PREFIX = "event-"
EVENT_RETRIES = 2
EVENT_FAILURE_TTL_S = 3600
SPOOL_CHECK_S = 5.0


class WebhookInbox:
    """Stores events; thread-safe.

    While the database is unavailable, events are written to files in a spool folder, and from there to the
    database as soon as possible.

    Attributes:
        database: Where events are stored.
    """

    def __init__(self, database: Database, connection: Redis, spool: Path) -> None:
        """Set up the inbox.

        Args:
            database: Where events are stored.
            connection: The Redis in which the jobs that process them are queued.
            spool: The spool folder; it is created when it is needed.
        """
        self.database = database
        self._connection = connection
        self._spool = spool
        self._spool_checked_until = 0.0
        self._spool_lock = threading.Lock()

    def store(self, action: str, project: str | None, body: bytes) -> None:
        """Store an event and queue the job that processes it.

        Storing the same event again has no effect. Actions outside STORED_ACTIONS are ignored.

        Args:
            action: Label Studio's name of the event.
            project: The project's id, if the event has one.
            body: The request's body as it came, in an encoding of JSON.

        Raises:
            OSError: Neither the database nor the spool folder can be written.
        """
        if action not in STORED_ACTIONS:
            return
        # Pressing Start Training twice sends the same body, and both times mean a training.
        salt = uuid4().bytes if action == "START_TRAINING" else b""
        body_hash = hashlib.sha256(salt + body).hexdigest()
        text = body.decode(json.detect_encoding(body), "replace")
        try:
            self._insert(body_hash, action, project, text)
        except IntegrityError:  # the same event came twice at once; the other one is stored
            log.debug("event %s is stored already", body_hash)
        except (DatabaseUnavailable, DBAPIError) as error:
            log.warning("the event waits in %s: %s", self._spool, error)
            self._write_to_spool(body_hash, action, project, text)
            return
        try:
            self.flush_spool()
        except (DatabaseUnavailable, OSError) as error:  # this event is stored; the others go on waiting
            log.warning("the events in %s go on waiting: %s", self._spool, error)

    def flush_spool(self) -> None:
        """Store the events that wait in the spool folder; it is read every SPOOL_CHECK_S at most.

        A file that cannot be read or stored is set aside, with the reason in the log.

        Raises:
            DatabaseUnavailable: The database is still unavailable.
            OSError: The folder cannot be read or written.
        """
        if time.monotonic() < self._spool_checked_until or not self._spool_lock.acquire(blocking=False):
            return
        try:
            for path in sorted(self._spool.glob(f"*{COMPLETE}")):
                try:
                    event = json.loads(path.read_text())
                    self._insert(path.stem, event["action"], event["project"], event["body"])
                except FileNotFoundError:  # another process was faster
                    continue
                except IntegrityError:  # another process stored it at the same time
                    pass
                except (ValueError, LookupError, TypeError, SQLAlchemyError) as error:
                    path.rename(path.with_suffix(DAMAGED))
                    log.error("%s cannot be stored and is set aside: %s", path, error)
                    continue
                path.unlink(missing_ok=True)
            self._spool_checked_until = time.monotonic() + SPOOL_CHECK_S
        finally:
            self._spool_lock.release()

    def _write_to_spool(self, body_hash: str, action: str, project: str | None, body: str) -> None:
        self._spool.mkdir(parents=True, exist_ok=True)
        temporary_path = self._spool / f"{body_hash}.{uuid4().hex}{UNFINISHED}"
        try:
            with temporary_path.open("w") as file:
                file.write(json.dumps({"action": action, "project": project, "body": body}))
                file.flush()
                os.fsync(file.fileno())
            temporary_path.rename(self._spool / f"{body_hash}{COMPLETE}")
            _sync_folder(self._spool)
        finally:
            temporary_path.unlink(missing_ok=True)
        self._spool_checked_until = 0.0

    def _insert(self, body_hash: str, action: str, project: str | None, body: str) -> None:
        with self.database.session() as session:
            if session.scalar(select(Event.id).where(Event.body_hash == body_hash)) is not None:
                return
            event = Event(body_hash=body_hash, action=action, project=project, body=body)
            session.add(event)
            session.flush()
            event_id = event.id
        with _redis_errors_logged(f"event {event_id}"):
            if action == "START_TRAINING" and project:
                runs.request(self.database, self._connection, project, "asked for in Label Studio")
            enqueue_event(self._connection, event_id)


def enqueue_event(connection: Redis, event_id: int) -> None:
    """Queue the job that processes a stored event.

    Raises:
        RedisError: Redis cannot be used.
    """
    Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json").enqueue_call(
        PROCESS_EVENT,
        args=(event_id,),
        job_id=f"{JOB_PREFIX}{event_id}",
        timeout=EVENT_TIMEOUT_S,
        result_ttl=0,
        failure_ttl=EVENT_FAILURE_TTL_S,
        retry=Retry(max=EVENT_RETRIES),
        description=f"event {event_id}",
    )


def waiting_events(connection: Redis) -> set[int]:
    """Return the ids of the events whose jobs wait in the queue.

    Raises:
        RedisError: Redis cannot be used.
    """
    ids = Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json").get_job_ids()
    return {int(name.removeprefix(JOB_PREFIX)) for name in ids if name.startswith(JOB_PREFIX)}


def spool_folder(settings: Settings) -> Path:
    """Return the folder in which events wait for the database."""
    return settings.spool_dir or settings.data_dir / SPOOL_FOLDER


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _redis_errors_logged(what: str) -> Iterator[None]:
    """Log errors of Redis only: what is in the database is queued later (`jobs.requeue_overdue`)."""
    try:
        yield
    except RedisError as error:
        log.warning("%s is stored and waits for Redis: %s", what, error)
