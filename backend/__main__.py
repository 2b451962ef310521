"""The command line: `python -m backend [serve | collect | reconcile | forget | prelabel]`."""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
from collections.abc import Sequence

import uvicorn
from redis.exceptions import RedisError

from backend.corrections.collector import Collector
from backend.corrections.process import collect
from backend.corrections.reconcile import reconcile
from backend.http.app import create_app
from backend.http.reasons import ReasonProtocol
from backend.label_studio.client import LabelStudioUnavailable
from backend.prelabelling import command as prelabelling
from backend.settings import BackendSettings
from label_config import ConfigError
from worker.settings import WorkerSettings
from worker.startup import EXIT_CANNOT_START, configure_logging, read_settings
from worker.store import DatabaseUnavailable

# Prompts that wait at a shutdown are answered by the next process when they are sent again.
SHUTDOWN_TIMEOUT_S = 5
LISTEN_BACKLOG = 2048
SETTINGS = "Settings are environment variables, listed in docs/settings.md."

log = logging.getLogger("backend")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line; None: the process's own.

    Returns:
        The process's exit code.
    """
    parsed = _parser().parse_args(arguments)
    settings = read_settings(BackendSettings)
    configure_logging(settings.log_level)
    if parsed.command in ("collect", "reconcile", "forget"):
        read_settings(WorkerSettings)  # the collector reads them later, where a wrong one fails every event
    match parsed.command:
        case "collect":
            return _collect(settings)
        case "reconcile":
            return _reconcile(parsed.project)
        case "forget":
            return _forget(parsed.project)
        case "prelabel":
            return prelabelling.prelabel(parsed, settings)
        case _:
            return _serve(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m backend",
        description=f"The Label Studio backend of PixelLM Assist; without a command it serves. {SETTINGS}",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, text in (
        ("serve", "answer Label Studio's requests (the default)"),
        ("collect", "turn webhooks into corrections, and request trainings"),
    ):
        commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {SETTINGS}")
    text = "compare the corrections with Label Studio's annotations once, and exit"
    reconciling = commands.add_parser(
        "reconcile", help=text, description=f"{text[0].upper()}{text[1:]}. {SETTINGS}"
    )
    reconciling.add_argument(
        "--project", metavar="N", help="the project's number (default: all known projects)"
    )
    text = "delete all that is stored of a project that was deleted in Label Studio, and exit"
    forgetting = commands.add_parser(
        "forget", help=text, description=f"{text[0].upper()}{text[1:]}. {SETTINGS}"
    )
    forgetting.add_argument("--project", metavar="N", required=True, help="the project's number")
    text = "store predictions for all tasks of a project, and exit"
    prelabelling.add_arguments(
        commands.add_parser("prelabel", help=text, description=f"{text[0].upper()}{text[1:]}. {SETTINGS}")
    )
    return parser


def _serve(settings: BackendSettings) -> int:
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        print(
            f"Cannot listen on {settings.host} port {settings.port} (HOST, PORT): {error.strerror or error}",
            file=sys.stderr,
        )
        return EXIT_CANNOT_START
    config = uvicorn.Config(
        create_app(settings),
        http=ReasonProtocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
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
        collector = Collector.from_environment()
        collector.database.migrate()
        for project_id in [project] if project else collector.known_projects():
            print(f"project {project_id}: {json.dumps(reconcile(collector, project_id))}")
    except (LabelStudioUnavailable, DatabaseUnavailable, ConfigError) as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START
    return 0


def _forget(project: str) -> int:
    try:
        collector = Collector.from_environment()
        collector.database.migrate()
        collector.forget_project(project)
    except DatabaseUnavailable as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START
    print(f"project {project}: corrections, images, proposals and events are deleted; versions stay")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address[:2], family=family, backlog=LISTEN_BACKLOG)
    # Accepted connections inherit this. asyncio only sets it on sockets that name their protocol, which this
    # one does not, and without it the kernel delays each small response by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    sys.exit(main())
