"""The collector's jobs: functions that RQ calls by the names in `backend.job_names`."""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from http.client import NOT_FOUND
from typing import Literal

from sqlalchemy import select

from backend.corrections import housekeeping
from backend.corrections.annotation import UnreadableAnnotation
from backend.corrections.announce import announce, unannounced
from backend.corrections.collector import Collector
from backend.corrections.reconcile import reconcile
from backend.corrections.webhook_inbox import (
    WebhookInbox,
    enqueue_event,
    spool_folder,
    waiting_events,
)
from backend.label_studio.client import LabelStudioUnavailable
from label_config import ConfigError
from worker.images.decode import ImageError
from worker.store import DatabaseUnavailable, runs
from worker.store.registry import Registry
from worker.store.tables import Event, now

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 12  # the last after an hour's pause; then `reconcile` or a person has to help
MAX_UNEXPECTED = 4  # attempts that end with an error that nobody expects
MAX_INTERRUPTED = 6  # attempts in a row that do not end: the event kills its process
MAX_PAUSE_S = 3600
INTERRUPTED = "its processing was ended from outside, by a signal or for want of memory"
# A pending event that is older than this has no job any more, and an attempt has ended with its process.
LOST_AFTER_S = 60
MAX_REQUEUED = 1000
# Kinds of ImageError that another attempt cannot help.
PERMANENT_IMAGE_ERRORS = ("reference", "address", "too_large", "format")
ANNOUNCE_AGAIN_S = 600.0  # after a failure

_announce_after: dict[str, float] = {}  # when an announcement that failed is tried again, by project


@functools.cache
def get_collector() -> Collector:
    """Return this process's collector, made by its first job; RQ's job functions share nothing else."""
    return Collector.from_environment()


def process_event(event_id: int) -> None:
    """Apply a stored event.

    What cannot be done now is tried again later, with growing pauses; what can never be done is marked as
    failed, with the reason. An attempt is counted before it begins, so that an event that ends the process
    is not tried for ever.
    """
    collector = get_collector()
    with collector.database.session(durable=False) as session:
        event = session.get(Event, event_id)
        if event is None or event.state != "pending":
            return
        if event.interrupted >= MAX_INTERRUPTED:
            event.state, event.reason = "failed", INTERRUPTED
            log.error("event %d (%s) is failed: %s", event_id, event.action, INTERRUPTED)
            return
        event.attempts += 1
        event.interrupted += 1
        event.due_at = now() + timedelta(seconds=LOST_AFTER_S)
    state, reason, pause_s = _apply(collector, event)
    with collector.database.session() as session:
        event = session.get(Event, event_id)
        if event is None:  # its project was deleted
            return
        event.state, event.reason, event.interrupted = state, reason, 0
        event.due_at = now() + timedelta(seconds=pause_s)
        if state == "done":
            event.body = ""  # its content is in the other tables now
    if reason:
        log.warning("event %d (%s) is %s: %s", event_id, event.action, state, reason)


def requeue_overdue() -> None:
    """Queue what should have a job and has none.

    These are events that the database or Redis could not take, events whose next attempt is due, and
    trainings whose job is lost. Versions that are not announced are announced.
    """
    collector = get_collector()
    inbox = WebhookInbox(collector.database, collector.connection, spool_folder(collector.settings))
    try:
        inbox.flush_spool()
    except OSError as error:
        log.warning("the events in the spool folder go on waiting: %s", error)
    with collector.database.read() as session:
        retry_due = (Event.attempts > 0) & (Event.due_at <= now())
        lost = Event.due_at <= now() - timedelta(seconds=LOST_AFTER_S)
        query = select(Event.id).where(Event.state == "pending", retry_due | lost).order_by(Event.id)
        overdue = session.scalars(query.limit(MAX_REQUEUED)).all()
    waiting = waiting_events(collector.connection)  # in a long queue, events grow old with their jobs
    for event_id in overdue:
        if event_id not in waiting:
            enqueue_event(collector.connection, event_id)
    runs.requeue(collector.database, collector.connection)
    for project in unannounced(Registry(collector.settings), collector.database):
        if time.monotonic() >= _announce_after.get(project, 0.0):
            run_in_background(f"announcing {project}", functools.partial(_announce, collector, project))


def reconcile_all() -> None:
    """Begin to reconcile every known project with Label Studio."""
    run_in_background("reconciling", functools.partial(reconcile_projects, get_collector()))


def reconcile_projects(collector: Collector) -> None:
    """Reconcile every known project with Label Studio; what fails in one keeps no other back."""
    for project in collector.known_projects():
        try:
            reconcile(collector, project)
        except LabelStudioUnavailable as error:
            hint = ""
            if error.status == NOT_FOUND:
                hint = f" If it was deleted, run `python -m backend forget --project {project}`."
            log.warning("project %s is not reconciled: %s%s", project, error, hint)
        except ConfigError as error:
            log.warning("project %s is not reconciled: %s", project, error)


def clean_up() -> None:
    """Delete what nothing needs any more: old events, superseded proposals, images without a correction."""
    collector = get_collector()
    with collector.database.session() as session:
        num_events, num_proposals = housekeeping.delete_old_rows(session)
    num_images = housekeeping.delete_unowned_images(collector.database, collector.blobs)
    log.info("deleted %d events, %d proposals and %d images", num_events, num_proposals, num_images)


def run_in_background(name: str, function: Callable[[], None]) -> None:
    """Run what takes long in a thread, so that no webhook waits for it; not twice at once by one name."""
    if any(thread.name == name for thread in threading.enumerate()):
        return
    threading.Thread(target=_logged, args=(name, function), name=name, daemon=True).start()


def train_all() -> None:
    """Request a training of each project that has new corrections."""
    collector = get_collector()
    for project in collector.known_projects():
        if new := collector.count_new_corrections(project):
            reason = f"on schedule, {new} new corrections"
            runs.request(collector.database, collector.connection, project, reason)


def _announce(collector: Collector, project: str) -> None:
    if not announce(collector.settings, collector.database, project):
        _announce_after[project] = time.monotonic() + ANNOUNCE_AGAIN_S


def _logged(name: str, function: Callable[[], None]) -> None:
    try:
        function()
    except Exception:  # nobody waits for this thread, and it runs again
        log.exception("%s failed", name)


def _apply(
    collector: Collector, event: Event
) -> tuple[Literal["done", "pending", "failed"], str | None, float]:
    """Apply an event; return its new state, the reason if not done, and the pause before a retry in s."""
    try:
        collector.apply(event.action, event.project, json.loads(event.body))
    except (ImageError, LabelStudioUnavailable) as error:
        permanent = isinstance(error, ImageError) and error.kind in PERMANENT_IMAGE_ERRORS
        failed = permanent or event.attempts >= MAX_ATTEMPTS
        return "failed" if failed else "pending", str(error), _pause_s(event)
    except (UnreadableAnnotation, ConfigError) as error:
        return "failed", str(error), 0.0
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"the event is not what Label Studio sends ({type(error).__name__}: {error})"
        return "failed", reason, 0.0
    except DatabaseUnavailable:
        raise  # nothing can be recorded; `requeue_overdue` finds the event
    except Exception as error:  # a time limit, a want of memory, a store that refuses: anything
        log.exception("event %d", event.id)
        reason = f"{type(error).__name__}: {error}"
        return "failed" if event.attempts >= MAX_UNEXPECTED else "pending", reason, _pause_s(event)
    return "done", None, 0.0


def _pause_s(event: Event) -> float:
    return min(2.0 ** (event.attempts - 1), MAX_PAUSE_S)
