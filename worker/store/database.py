"""The database: SQLite in write-ahead mode by default, or PostgreSQL (DATABASE_URL)."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import math
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from worker.settings import Settings

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 30.0  # SQLite has one writer at a time; others wait this long
THREADS = 4  # of `Database.run`
READ_ONLY, DURABLE = "pixellm_read_only", "pixellm_durable"  # of a connection, for `_begin`
_MIGRATION_LOCK = 7_116_101  # any number, the same for every process: PostgreSQL's advisory lock


T = TypeVar("T")


class DatabaseUnavailable(Exception):
    """The database cannot be used; the message says which one and why."""


class Database:
    """A pool of connections. Create it after a fork, not before.

    Attributes:
        url: The database's URL.
    """

    def __init__(self, settings: Settings, patience_s: float = BUSY_TIMEOUT_S) -> None:
        """Set up the pool; nothing is connected yet. The folder of an SQLite file is created.

        Args:
            settings: Where the database is.
            patience_s: How long to wait for an SQLite database that others write to, or for an answer of
                PostgreSQL if it is less than BUSY_TIMEOUT_S.
        """
        self._threads = ThreadPoolExecutor(THREADS, "database")  # starts its threads when they are needed
        if settings.database_url:
            self.url = make_url(settings.database_url.replace("postgres://", "postgresql://", 1))
        else:
            file = (settings.data_dir / "pixellm.db").absolute()
            self.url = URL.create("sqlite", database=str(file))  # in a URL's text, a `?` ends the path
        if self.url.get_backend_name() == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
            arguments: dict[str, Any] = {"connect_timeout": min(5, math.ceil(patience_s))}
            if patience_s < BUSY_TIMEOUT_S:
                arguments["options"] = f"-c statement_timeout={round(1000 * patience_s)}"
            self._engine = create_engine(self.url, pool_pre_ping=True, connect_args=arguments)
        else:
            if self.url.database:
                Path(self.url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(self.url, connect_args={"timeout": patience_s})
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin)

    def migrate(self) -> None:
        """Bring the tables up to date. Several processes may call it at the same time.

        Raises:
            DatabaseUnavailable: The database cannot be reached or used.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))  # as ConfigParser does
        with self._available(), self._migration_lock(), self._engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Run one transaction that only reads; it waits for no writer, and no writer waits for it.

        Yields:
            The session. Objects read in it stay readable after the end.

        Raises:
            DatabaseUnavailable: The database cannot be reached or used.
        """
        engine = self._engine.execution_options(**{READ_ONLY: True})
        with self._available(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def session(self, durable: bool = True) -> Iterator[Session]:
        """Run one transaction that writes: committed at the end, rolled back when something is raised.

        Args:
            durable: Whether it is on the disk at the end. If not, it survives the end of this process, but
                perhaps not that of the machine; that takes less time.

        Yields:
            The session. Objects read in it stay readable after the end.

        Raises:
            DatabaseUnavailable: The database cannot be reached or used.
        """
        engine = self._engine.execution_options(**{DURABLE: durable})
        with self._available(), Session(engine, expire_on_commit=False) as session, session.begin():
            if not durable and self.url.get_backend_name() == "postgresql":
                session.execute(text("SET LOCAL synchronous_commit TO OFF"))
            yield session

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that uses this database in one of its own threads.

        asyncio's threads are for other work, which a database that does not answer would keep waiting.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(function, *arguments))

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False)
        self._engine.dispose()

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, DBAPIError) as error:
            if not isinstance(error, OperationalError) and not error.connection_invalidated:
                raise
            url = self.url.render_as_string(hide_password=True)
            raise DatabaseUnavailable(
                f"The database {url} (DATABASE_URL) cannot be used: {error.orig}"
            ) from error

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
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
    # SQLAlchemy begins transactions, not the driver.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    """Begin; one that writes takes the write lock at once, else it would fail if another wrote in between."""
    options = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get(DURABLE, True) else 'NORMAL'}")
    reads_only = options.get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
