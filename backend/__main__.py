"""`python -m backend`: serves Label Studio; with `collect`, understands what annotators corrected; with
`reconcile`, compares with Label Studio once."""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
from collections.abc import Sequence

import uvicorn
from redis.exceptions import RedisError

from backend.corrections.collector import collector, known_projects
from backend.corrections.process import collect
from backend.http.app import create_app
from backend.label_studio.client import LabelStudioUnavailable
from backend.settings import BackendSettings
from label_config import ConfigError
from worker.startup import EXIT_CANNOT_START, configure_logging, read_settings
from worker.store import DatabaseUnavailable

# Prompts still waiting at a shutdown are answered by the next process when they are asked again.
SHUTDOWN_S = 5

log = logging.getLogger("backend")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m backend", description=__doc__)
    parser.add_argument("role", nargs="?", choices=("serve", "collect", "reconcile"), default="serve")
    parser.add_argument("--project", help="for `reconcile`: its number (default: all that are known)")
    asked = parser.parse_args(arguments)
    settings = read_settings(BackendSettings)
    configure_logging(settings.log_level)
    if asked.role != "serve":
        return _collect(settings) if asked.role == "collect" else _reconcile(asked.project)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        print(
            f"Cannot listen on {settings.host} port {settings.port} (HOST, PORT): {error.strerror or error}",
            file=sys.stderr,
        )
        return EXIT_CANNOT_START
    config = uvicorn.Config(
        create_app(settings), log_config=None, access_log=False, timeout_graceful_shutdown=SHUTDOWN_S
    )
    log.info("listening on http://%s:%d", settings.host, settings.port)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _collect(settings: BackendSettings) -> int:
    try:
        return collect(settings)
    except (RedisError, DatabaseUnavailable) as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START


def _reconcile(project: str | None) -> int:
    try:
        mine = collector()
        mine.database.migrate()
        for one in [project] if project else known_projects(mine.database):
            print(f"project {one}: {json.dumps(mine.reconcile(one))}")
    except (LabelStudioUnavailable, DatabaseUnavailable, ConfigError) as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address[:2], family=family, backlog=2048)
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, as this one does not,
    # and without it the kernel holds each small answer back for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    sys.exit(main())
