"""The collector's jobs: functions that RQ calls by the names in `backend.job_names`."""

from __future__ import annotations

import functools
import json
import logging
from datetime import timedelta
from typing import Literal

from redis import Redis
from rq import Queue
from rq.job import Job
from sqlalchemy import select

from backend.corrections.annotation import UnreadableAnnotation
from backend.corrections.announce import announce
from backend.corrections.collector import Collector
from backend.corrections.webhook_inbox import WebhookInbox, enqueue_event
from backend.job_names import ANNOUNCE_VERSION, CORRECTIONS_QUEUE
from backend.label_studio.client import LabelStudioUnavailable
from label_config import ConfigError
from worker.images.decode import ImageError
from worker.jobs.queue import QueueUnavailable
from worker.store import Database, runs
from worker.store.tables import Event, TrainingRun, now

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 12  # the last after an hour's pause; then `reconcile` or a person has to help
MAX_PAUSE_S = 3600
# A pending event that is older than this has no job any more.
LOST_AFTER_S = 60
MAX_REQUEUED = 1000
ANNOUNCE_TIMEOUT_S = 3600
ANNOUNCE_FAILURE_TTL_S = 60
# Kinds of ImageError that another attempt cannot help.
PERMANENT_IMAGE_ERRORS = ("reference", "address", "too_large", "format")


@functools.cache
def get_collector() -> Collector:
    """Return this process's collector, made by its first job; RQ's job functions share nothing else."""
    return Collector.from_environment()


def process_event(event_id: int) -> None:
    """Apply a stored event.

    What cannot be done now is tried again later, with growing pauses; what can never be done is marked as
    failed, with the reason.
    """
    collector = get_collector()
    with collector.database.session() as session:
        event = session.get(Event, event_id)
    if event is None or event.state != "pending":
        return
    state, reason, pause_s = _apply(collector, event)
    with collector.database.session() as session:
        event = session.get_one(Event, event_id)
        event.state, event.reason, event.attempts = state, reason, event.attempts + 1
        event.due_at = now() + timedelta(seconds=pause_s)
        if state == "done":
            event.body = ""  # its content is in the other tables now
    if reason:
        log.warning("event %d (%s) is %s: %s", event_id, event.action, state, reason)


def announce_version(run_id: int) -> None:
    """Announce a promoted version in Label Studio; errors are only logged, since it serves anyway."""
    collector = get_collector()
    with collector.database.session() as session:
        run = session.get_one(TrainingRun, run_id)
        project, version = run.project, str(run.version)
    try:
        announce(collector.settings, collector.database, project, version)
    except (LabelStudioUnavailable, ConfigError, QueueUnavailable) as error:
        log.warning("project %s: %s is not announced in Label Studio: %s", project, version, error)
    with collector.database.session() as session:
        session.get_one(TrainingRun, run_id).announced_at = now()


def requeue_overdue() -> None:
    """Queue what should have a job and has none.

    These are events that the database or Redis could not take, events whose next attempt is due, trainings
    whose job is lost, and promotions that are not announced.
    """
    collector = get_collector()
    inbox = WebhookInbox(collector.database, collector.connection, collector.settings.data_dir)
    inbox.flush_spool()
    with collector.database.session() as session:
        retry_due = (Event.attempts > 0) & (Event.due_at <= now())
        lost = Event.due_at <= now() - timedelta(seconds=LOST_AFTER_S)
        query = select(Event.id).where(Event.state == "pending", retry_due | lost).order_by(Event.id)
        overdue = session.scalars(query.limit(MAX_REQUEUED)).all()
    for event_id in overdue:
        enqueue_event(collector.connection, event_id)
    runs.requeue(collector.database, collector.connection)
    enqueue_announcements(collector.database, collector.connection)


def reconcile_all() -> None:
    """Reconcile every known project with Label Studio."""
    collector = get_collector()
    for project in collector.known_projects():
        try:
            collector.reconcile(project)
        except LabelStudioUnavailable as error:
            log.warning("project %s is not reconciled: %s", project, error)


def train_all() -> None:
    """Request a training of each project that has new corrections."""
    collector = get_collector()
    for project in collector.known_projects():
        if new := collector.count_new_corrections(project):
            reason = f"on schedule, {new} new corrections"
            runs.request(collector.database, collector.connection, project, reason)


def enqueue_announcements(database: Database, connection: Redis) -> None:
    """Queue the announcement of each promoted version that is not announced yet.

    Raises:
        RedisError: Redis cannot be used.
    """
    queue = Queue(CORRECTIONS_QUEUE, connection=connection, serializer="json")
    with database.session() as session:
        promoted = session.scalars(
            select(TrainingRun.id).where(TrainingRun.state == "promoted", TrainingRun.announced_at.is_(None))
        ).all()
    for run_id in promoted:
        job_id = f"announce-{run_id}"
        if not Job.exists(job_id, connection):
            queue.enqueue_call(
                ANNOUNCE_VERSION,
                args=(run_id,),
                job_id=job_id,
                timeout=ANNOUNCE_TIMEOUT_S,
                result_ttl=0,
                failure_ttl=ANNOUNCE_FAILURE_TTL_S,
            )


def _apply(
    collector: Collector, event: Event
) -> tuple[Literal["done", "pending", "failed"], str | None, float]:
    """Apply an event; return its new state, the reason if not done, and the pause before a retry in s."""
    try:
        collector.apply(event.action, event.project, json.loads(event.body))
    except (ImageError, LabelStudioUnavailable) as error:
        permanent = isinstance(error, ImageError) and error.kind in PERMANENT_IMAGE_ERRORS
        failed = permanent or event.attempts + 1 >= MAX_ATTEMPTS
        pause_s = min(2.0**event.attempts, MAX_PAUSE_S)
        return "failed" if failed else "pending", str(error), pause_s
    except (UnreadableAnnotation, ConfigError) as error:
        return "failed", str(error), 0.0
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"the event is not what Label Studio sends ({type(error).__name__}: {error})"
        return "failed", reason, 0.0
    return "done", None, 0.0
