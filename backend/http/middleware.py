"""The edge of the service: who is let in, what a body may be, and what an error looks like."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.http.auth import Gate
from backend.http.metrics import Metrics

log = logging.getLogger(__name__)

# Parsing a larger body would keep the event loop from other requests.
PARSE_INLINE_BYTES = 256 * 1024

Model = TypeVar("Model", bound=BaseModel)


class Edge:
    """Wraps the application: checks credentials, counts requests, and turns what nobody caught into a 500."""

    def __init__(self, app: ASGIApp, gate: Gate, metrics: Metrics) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status: int | None = None

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._gate.admits(scope["path"], Headers(scope=scope)):
                await self._app(scope, receive, note)
            else:
                await _unauthorized(scope, receive, note)
        except ClientDisconnect:
            log.debug("the client hung up")
        except Exception:
            error_id = uuid4().hex[:12]
            log.exception("error %s in %s %s", error_id, scope["method"], scope["path"])
            if status is None:
                detail = f"The backend failed on this request; its log has the reason under error {error_id}."
                await JSONResponse({"detail": detail}, 500)(scope, receive, note)
        # The router names the route it chose; a path nobody serves must not become a label of its own.
        route = scope["path"] if scope.get("endpoint") else "unknown"
        self._metrics.observe(route, status or 499, time.perf_counter() - start)


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "This needs the backend's user name and password (BASIC_AUTH_USER, BASIC_AUTH_PASS)."
    headers = {"WWW-Authenticate": 'Basic realm="pixellm", charset="UTF-8"'}
    await JSONResponse({"detail": detail}, 401, headers)(scope, receive, send)


async def http_error(request: Request, error: Exception) -> Response:
    """One sentence as JSON for what the router or a route refuses."""
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            detail = f"There is nothing at {request.url.path}."
        case 405:
            detail = f"{request.url.path} does not take {request.method}."
        case _:
            detail = error.detail
    return JSONResponse({"detail": detail}, error.status_code, error.headers)


async def read_body(request: Request, model: type[Model], max_bytes: int) -> Model:
    """The JSON body as a `model`. Raises HTTPException: 413 when it is too large, 400 when it is not one."""
    return await parse_body(await read_bytes(request, max_bytes), model)


async def parse_body(body: bytes, model: type[Model]) -> Model:
    """`body` as a `model`. Raises HTTPException 400 when it is not one."""
    if len(body) > PARSE_INLINE_BYTES:
        return await asyncio.to_thread(_parse, body, model)
    return _parse(body, model)


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The body. Raises HTTPException 413 when it is too large."""
    too_large = HTTPException(413, f"The body is larger than {max_bytes} bytes (MAX_BODY_BYTES).")
    declared = request.headers.get("Content-Length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def _parse(body: bytes, model: type[Model]) -> Model:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON.") from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise HTTPException(400, _first_problem(error)) from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the whole"
    return f"The body is not what Label Studio sends: {where}: {problem['msg'].lower()}."
