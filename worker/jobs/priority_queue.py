"""RQ's queue, reading several queues in order of priority without a moment in which a job can be lost.

With more than one queue, stock RQ pops jobs with BLPOP: a worker that is killed before it records what it
took loses the job. With one queue, RQ moves the job to an intermediate list in the same command. This class
does so for each queue in turn, and for the jobs that are taken together with the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.utils import as_text

from worker.jobs.rq_internals import QueueInternals


class PriorityQueue(QueueInternals):
    """A queue whose `dequeue_any` serves the first of several queues first, each first in, first out."""

    @classmethod
    def dequeue_any(
        cls,
        queues: Iterable[Queue],
        timeout: float | None,
        connection: Redis,
        job_class: type[Job] | None = None,
        serializer: Any = None,
        death_penalty_class: Any = None,
    ) -> tuple[Job, Queue] | None:
        """Take the next job.

        Args:
            queues: The queues, in order of priority.
            timeout: Seconds to wait when all queues are empty. The wait sees the first queue only, so a short
                timeout bounds how long a job in the other queues stays unseen. None: do not wait.
            connection: The queues' Redis.
            job_class: As in RQ.
            serializer: As in RQ.
            death_penalty_class: As in RQ.

        Returns:
            The job and its queue; None when all queues are empty and `timeout` is None.

        Raises:
            rq.exceptions.DequeueTimeout: Nothing came within `timeout`; call again.
        """
        keys = [queue.key for queue in queues]
        while True:
            taken = next(filter(None, (cls.lmove(connection, key, None) for key in keys)), None)
            if taken is None:
                if timeout is None:
                    return None
                taken = cls.lmove(connection, keys[0], timeout)
            fetched: tuple[Job, Queue] | None = cls.fetch_dequeued_job(
                connection,
                *map(as_text, taken),
                job_class=job_class,
                serializer=serializer,
                death_penalty_class=death_penalty_class,
            )
            if fetched is not None:
                return fetched

    def take_unstarted(self, count: int, retries: int) -> list[Job]:
        """Take the next jobs, at most `count`, up to the first that was started before.

        Args:
            count: The largest number of jobs to take.
            retries: The retries of a job that was never started.

        Returns:
            The jobs, in order.
        """
        job_ids = self.move_unstarted(count, retries)
        jobs = Job.fetch_many(job_ids, self.connection, self.serializer) if job_ids else []
        return [job for job in jobs if job is not None]
