"""Requests for training runs; `worker.learning.job` does the training.

A request is first a row of `training_runs`, then a job. So it is visible at once and survives the loss of
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

RETRIES = 3  # a run whose process was killed resumes from its last checkpoint
RESULT_TTL_S = 24 * 3600
OPEN = ("requested", "running")


def request(database: Database, connection: Redis, project: str, reason: str) -> int:
    """Request a training run.

    A request that is waiting already is returned again. While a run is going on, a new request waits for its
    end, because there may be new corrections by then.

    Args:
        database: Where runs are recorded.
        connection: The queue's Redis.
        project: The project to train.
        reason: Why, in words.

    Returns:
        The run's id.

    Raises:
        DatabaseUnavailable: The database cannot be used; nothing is requested.
        redis.RedisError: Redis cannot be used; the request is recorded, and `requeue` makes its job.
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
    """Enqueue the job of a requested run unless it is enqueued or running."""
    queue = Queue(TRAINING_QUEUE, connection=connection, serializer="json")
    job_id = f"train-{number}"
    if (job := _job(connection, job_id)) is not None:
        if job.get_status(refresh=False) not in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED):
            return
        job.delete()
    queue.enqueue_call(
        TRAIN,
        args=(number,),
        job_id=job_id,
        timeout=-1,
        result_ttl=RESULT_TTL_S,
        failure_ttl=RESULT_TTL_S,
        retry=Retry(max=RETRIES),
        description=f"retraining {number}",
    )


def requeue(database: Database, connection: Redis) -> None:
    """Enqueue the open runs that Redis has lost; end those whose job failed for good.

    Jobs that another release made, for a function of another name, are replaced unless they are running.
    """
    with database.session() as session:
        for run in session.scalars(select(TrainingRun).where(TrainingRun.state.in_(OPEN))):
            job = _job(connection, f"train-{run.id}")
            status = job.get_status(refresh=False) if job is not None else None
            if job is not None and status is not JobStatus.STARTED and job.func_name != TRAIN:
                log.warning("training %d is queued again: another release made its job", run.id)
                job.delete()
                enqueue(connection, run.id)
            elif status is None:
                log.warning("training %d is queued again: Redis has lost it", run.id)
                enqueue(connection, run.id)
            elif status in (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED):
                finish(run, "failed", f"its process was ended {RETRIES + 1} times; its checkpoints are kept")


def finish(run: TrainingRun, state: str, error: str | None = None) -> None:
    """Set the columns of a run that has ended."""
    run.state, run.error, run.finished_at = state, error, now()
    run.stage = run.seconds_left = None


def has_ended(session: Session, project: str, version: str) -> bool:
    """Whether a run that made a version has come to its end, promoted or rejected."""
    ended = select(TrainingRun.id).where(
        TrainingRun.project == project,
        TrainingRun.version == version,
        TrainingRun.state.in_(("promoted", "rejected")),
    )
    return session.scalar(ended.limit(1)) is not None


def last_started(session: Session, project: str) -> TrainingRun | None:
    """The project's newest run that read the corrections."""
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
