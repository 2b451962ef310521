"""Asking for a retraining, and where each one stands. Imports without torch; `worker.learning.job` does it.

A request is a row of `training_runs` first and a job second, so that it is seen at once and is not lost with
Redis: `requeue` makes the job again.
"""

from __future__ import annotations

import logging

from redis import Redis
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from sqlalchemy import select
from sqlalchemy.orm import Session

from worker.jobs.names import TRAIN, TRAINING_QUEUE
from worker.store.database import Database
from worker.store.tables import TrainingRun, now

log = logging.getLogger(__name__)

RETRIES = 3  # a run whose process is killed goes on from its last checkpoint
OPEN = ("requested", "running")


def request(database: Database, connection: Redis, project: str, reason: str) -> int:
    """Asks for a retraining of `project`; returns the run's id.

    While one is waiting, asking again returns that one; while one is running, one more is made to wait, since
    it may know more. Raises DatabaseUnavailable, and redis.RedisError after the request is kept.
    """
    with database.session() as session:
        waiting = session.scalars(
            select(TrainingRun).where(TrainingRun.project == project, TrainingRun.state == "requested")
        ).first()
        if waiting is None:
            waiting = TrainingRun(project=project, reason=reason[:200])
            session.add(waiting)
            session.flush()
            log.info("project %s: training %d is requested: %s", project, waiting.id, reason)
        number = waiting.id
    enqueue(connection, number)
    return number


def enqueue(connection: Redis, number: int) -> None:
    """Makes the job of a requested run, unless it is there."""
    queue = Queue(TRAINING_QUEUE, connection=connection, serializer="json")
    job_id = f"train-{number}"
    if (known := _job(connection, job_id)) is not None:
        if known.get_status(refresh=False) not in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED):
            return
        known.delete()
    queue.enqueue_call(
        TRAIN,
        args=(number,),
        job_id=job_id,
        timeout=-1,
        result_ttl=24 * 3600,
        failure_ttl=24 * 3600,
        retry=Retry(max=RETRIES),
        description=f"retraining {number}",
    )


def requeue(database: Database, connection: Redis) -> None:
    """Makes the jobs of open runs again that Redis lost; ends runs whose job failed for good."""
    with database.session() as session:
        for run in session.scalars(select(TrainingRun).where(TrainingRun.state.in_(OPEN))):
            job = _job(connection, f"train-{run.id}")
            status = job.get_status(refresh=False) if job is not None else None
            if status is None:
                log.warning("training %d is queued again: Redis has lost it", run.id)
                enqueue(connection, run.id)
            elif status in (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED):
                finish(run, "failed", f"its process was ended {RETRIES + 1} times; its checkpoints are kept")


def finish(run: TrainingRun, state: str, error: str | None = None) -> None:
    run.state, run.error, run.finished_at = state, error, now()
    run.stage = run.seconds_left = None


def last_started(session: Session, project: str) -> TrainingRun | None:
    """The project's newest run that looked at data."""
    return session.scalars(
        select(TrainingRun)
        .where(TrainingRun.project == project, TrainingRun.started_at.is_not(None))
        .order_by(TrainingRun.id.desc())
    ).first()


def _job(connection: Redis, job_id: str) -> Job | None:
    try:
        return Job.fetch(job_id, connection=connection, serializer="json")
    except NoSuchJobError:
        return None
