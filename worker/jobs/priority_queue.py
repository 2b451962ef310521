"""RQ's queue, reading several queues in order of priority without a moment in which a job can be lost.

Stock RQ pops from more than one queue with BLPOP: a worker killed before it notes what it took loses the job.
With one queue it moves the job to an "intermediate" list in the same command. This does that for each queue
in turn, and for the jobs that are taken along with the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis import Redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.utils import as_text, now

# KEYS: the queue, its intermediate list. ARGV: how many, the retries of a job not begun, how job keys begin.
_TAKE_UNBEGUN = """
local taken = {}
for nth = 1, tonumber(ARGV[1]) do
  local id = redis.call('LINDEX', KEYS[1], 0)
  if not id or redis.call('HGET', ARGV[3] .. id, 'retries_left') ~= ARGV[2] then break end
  redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
  taken[nth] = id
end
return taken
"""


class PriorityQueue(Queue):
    """A queue whose `dequeue_any` serves the first of several queues first, each first in, first out."""

    # From taking a job to starting it is a few commands; RQ waits a minute before it calls one stuck.
    stuck_after_s = 5
    # RQ's lock stays for 15 minutes when its holder dies, and nothing is recovered meanwhile.
    maintenance_lock_s = 10

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
        """The next job and its queue. When all are empty: None without a `timeout`, otherwise waits that many
        seconds, on the first queue only, and raises rq.exceptions.DequeueTimeout; call it again then. A short
        timeout bounds how long a job in the other queues stays unseen by an idle worker."""
        keys = [queue.key for queue in queues]
        while True:
            taken = next(filter(None, (cls.lmove(connection, key, None) for key in keys)), None)
            if taken is None:
                if timeout is None:
                    return None
                taken = cls.lmove(connection, keys[0], timeout)
            found = cls._fetch_dequeued_job(
                connection,
                *map(as_text, taken),
                job_class=job_class,
                serializer=serializer,
                death_penalty_class=death_penalty_class,
            )
            if found is not None:
                return found

    def take_unbegun(self, count: int, retries: int) -> list[Job]:
        """The next jobs, at most `count`, up to the first that has not all its `retries` left."""
        keys = [self.key, self.intermediate_queue.key]
        args = [count, retries, Job.redis_job_namespace_prefix]
        ids = self.connection.eval(_TAKE_UNBEGUN, len(keys), *keys, *args)
        jobs = Job.fetch_many([as_text(id) for id in ids], self.connection, self.serializer) if ids else []
        return [job for job in jobs if job is not None]

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        return _IntermediateQueue(self.key, self.connection, self.stuck_after_s)

    def acquire_maintenance_lock(self) -> bool:
        return bool(self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=self.maintenance_lock_s))


class _IntermediateQueue(IntermediateQueue):
    def __init__(self, queue_key: str, connection: Redis, stuck_after_s: int) -> None:
        super().__init__(queue_key, connection)
        self._stuck_after_s = stuck_after_s

    def set_first_seen(self, job_id: str) -> bool:
        # RQ keeps the mark for a day, but our ids return: an old mark must not condemn a later run.
        key = self.get_first_seen_key(job_id)
        return bool(self.connection.set(key, now().timestamp(), nx=True, ex=4 * self._stuck_after_s))

    def should_be_cleaned_up(self, job_id: str) -> bool:
        first_seen = self.get_first_seen(job_id)
        return first_seen is not None and (now() - first_seen).total_seconds() > self._stuck_after_s
