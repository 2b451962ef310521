"""A real HTTP server on a free loopback port that plays image hosts and Label Studio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext

Respond = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class ImageServer:
    """`routes` maps a path (query left out) to what answers it; `requests` notes every request's method, path
    with query, and headers."""

    port: int
    routes: dict[str, Respond] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def authorizations(self) -> list[str | None]:
        return [headers.get("authorization") for _, _, headers in self.requests]


def reply(body: bytes = b"", status: int = 200, **headers: str) -> Respond:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def redirect(location: str) -> Respond:
    return reply(status=302, Location=location)


@contextmanager
def running_server(tls: SSLContext | None = None) -> Iterator[ImageServer]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((self.command, self.path, headers))
            with suppress(BrokenPipeError, ConnectionResetError):  # a fetcher that hangs up, as it should
                server.routes.get(self.path.partition("?")[0], reply(status=404))(self)

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, format: str, *args: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    server = ImageServer(http.server_address[1])
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
