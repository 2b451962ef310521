"""Reads JSON bodies of limited size."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

# A larger body is parsed in a thread, because it would block the event loop for too long.
MAX_INLINE_BYTES = 256 * 1024

BodyModel = TypeVar("BodyModel", bound=BaseModel)


async def read_body(request: Request, model: type[BodyModel], max_bytes: int) -> BodyModel:
    """Read a JSON body and validate it.

    Args:
        request: The request.
        model: What the body has to be.
        max_bytes: The largest body that is read.

    Returns:
        The body as a `model`.

    Raises:
        HTTPException: 413 if the body is too large, 400 if it is not JSON or not a `model`.
    """
    return await parse_body(await read_bytes(request, max_bytes), model)


async def parse_body(body: bytes, model: type[BodyModel]) -> BodyModel:
    """Validate a JSON body.

    Raises:
        HTTPException: 400 if it is not JSON or not a `model`.
    """
    if len(body) > MAX_INLINE_BYTES:
        return await asyncio.to_thread(_parse, body, model)
    return _parse(body, model)


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """Read a body.

    Raises:
        HTTPException: 413 if it is larger than `max_bytes`.
    """
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


def _parse(body: bytes, model: type[BodyModel]) -> BodyModel:
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
