"""The lock that keeps two training runs of one project apart."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from redis import Redis
from redis.exceptions import LockNotOwnedError, RedisError

log = logging.getLogger(__name__)

LOCK_TTL_S = 30.0  # after its process was killed, a run's lock expires within this time
RENEW_EVERY_S = 5.0
RETRY_EVERY_S = 1.0


class ProjectLock:
    """A lock in Redis (redis-py's `Lock`: owner token, expiry), renewed by a thread while it is held.

    When its process is killed, the lock expires after LOCK_TTL_S. When Redis is away or restarts empty, the
    holder takes the lock again unless another run has it by then.
    """

    def __init__(self, connection: Redis, project: str) -> None:
        self._lock = connection.lock(
            f"pixellm:training:{project}", timeout=LOCK_TTL_S, sleep=RETRY_EVERY_S, thread_local=False
        )
        self._project = project
        self._released = threading.Event()
        self._lost = threading.Event()

    def __enter__(self) -> ProjectLock:
        """Wait until no other run trains the project, then hold the lock."""
        self._lock.acquire()
        self._thread = threading.Thread(target=self._keep_renewing, name="training lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the lock; one that is lost or cannot be released expires by itself."""
        self._released.set()
        self._thread.join()
        try:
            self._lock.release()
        except RedisError as release_error:
            log.warning("project %s: the training lock is not released: %s", self._project, release_error)

    def check(self) -> None:
        """Make sure that no other run has taken the lock.

        Raises:
            redis.exceptions.LockNotOwnedError: Another run has it; this one must stop.
        """
        if self._lost.is_set():
            raise LockNotOwnedError(f"Another run trains project {self._project}.")

    def _keep_renewing(self) -> None:
        while not self._released.wait(RENEW_EVERY_S):
            try:
                self._renew()
            except LockNotOwnedError:
                self._lost.set()
                log.error("project %s: another run has taken the training lock", self._project)
                return
            except RedisError as error:
                log.warning("project %s: the training lock is not renewed: %s", self._project, error)

    def _renew(self) -> None:
        try:
            self._lock.reacquire()  # sets the time to live to LOCK_TTL_S again
        except LockNotOwnedError:  # expired, or Redis restarted empty
            if not self._lock.acquire(blocking=False):
                raise
