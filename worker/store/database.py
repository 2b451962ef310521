"""The database: SQLite in write-ahead mode by default, PostgreSQL by DATABASE_URL."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from worker.settings import Settings

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_MS = 30_000  # SQLite has one writer at a time; others wait this long for their turn
_MIGRATION_LOCK = 7_116_101  # any number, the same for every process: PostgreSQL's advisory lock


class DatabaseUnavailable(Exception):
    """The database cannot be used; the message says which one and why."""


class Database:
    """A pool of connections. Made after a fork, not before."""

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url or f"sqlite:///{(settings.data_dir / 'pixellm.db').absolute()}"
        self.url = make_url(url.replace("postgres://", "postgresql://", 1))
        if self.url.get_backend_name() == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
            self._engine = create_engine(self.url, pool_pre_ping=True, connect_args={"connect_timeout": 5})
        else:
            if self.url.database:
                Path(self.url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(self.url, connect_args={"timeout": BUSY_MS / 1000})
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_immediately)

    def migrate(self) -> None:
        """Brings the tables up to date; several processes may try at once. Raises DatabaseUnavailable."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self._available(), self._one_at_a_time(), self._engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back when something is raised.

        Raises DatabaseUnavailable when the database cannot be reached or used.
        """
        with self._available(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, DBAPIError) as error:
            if not isinstance(error, OperationalError) and not error.connection_invalidated:
                raise
            shown = self.url.render_as_string(hide_password=True)
            raise DatabaseUnavailable(
                f"The database {shown} (DATABASE_URL) cannot be used: {error.orig}"
            ) from error

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if self.url.get_backend_name() == "postgresql":
            with self._engine.connect() as connection:
                connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
                try:
                    yield
                finally:
                    connection.execute(text(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})"))
                    connection.commit()
        elif self.url.database in (None, "", ":memory:"):
            yield
        else:
            with Path(f"{self.url.database}.migrating").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield


def _prepare_sqlite(connection: Any, record: object) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    # SQLAlchemy says when a transaction begins, not the driver.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: Connection) -> None:
    """A transaction that reads first and writes later would otherwise fail when another wrote in between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
