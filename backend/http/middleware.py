"""What happens around every request: authentication, metrics, and error responses as JSON."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.http.auth import RequestAuth
from backend.http.metrics import Metrics

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that hung up
ERROR_ID_CHARS = 12


class RequestMiddleware:
    """Checks credentials, counts requests, and turns unhandled exceptions into a 500 with an error id."""

    def __init__(self, app: ASGIApp, auth: RequestAuth, metrics: Metrics) -> None:
        self._app = app
        self._auth = auth
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status: int | None = None

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._auth.allows(scope["path"], Headers(scope=scope)):
                await self._app(scope, receive, send_and_record)
            else:
                await _unauthorized(scope, receive, send_and_record)
        except ClientDisconnect:
            log.debug("the client hung up")
        except Exception:
            error_id = uuid4().hex[:ERROR_ID_CHARS]
            log.exception("error %s in %s %s", error_id, scope["method"], scope["path"])
            if status is None:
                detail = f"The backend failed on this request; its log has the reason under error {error_id}."
                await JSONResponse({"detail": detail}, 500)(scope, receive, send_and_record)
        # The router sets `endpoint`. A path without a route must not become a metric label of its own.
        route = scope["path"] if scope.get("endpoint") else "unknown"
        self._metrics.observe(route, status or CLIENT_CLOSED_REQUEST, time.perf_counter() - start)


async def http_error(request: Request, error: Exception) -> Response:
    """Return the JSON response to an HTTPException of the router or a route."""
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            detail = f"There is nothing at {request.url.path}."
        case 405:
            detail = f"{request.url.path} does not take {request.method}."
        case _:
            detail = error.detail
    return JSONResponse({"detail": detail}, error.status_code, error.headers)


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "This needs the backend's user name and password (BASIC_AUTH_USER, BASIC_AUTH_PASS)."
    headers = {"WWW-Authenticate": 'Basic realm="pixellm", charset="UTF-8"'}
    await JSONResponse({"detail": detail}, 401, headers)(scope, receive, send)
