"""Label Studio's ML backend protocol over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backend.auth import Gate
from backend.http import Edge, http_error, read_body
from backend.metrics import Metrics
from backend.predict import Predictor, PredictRequest, Refused
from backend.settings import BackendSettings
from label_config import ConfigError, read_config
from worker.queue import QueueUnavailable, SegmentQueue

log = logging.getLogger(__name__)

MODEL_CLASS = "PixelLM"
NOT_READY = "pixellm (loading)"


class SetupRequest(BaseModel):
    """The body of /setup; its access token is not read, the backend has its own (LABEL_STUDIO_API_KEY)."""

    project: str | None = None
    label_config: str = Field("", alias="schema")


class WebhookRequest(BaseModel):
    """The body of /webhook. `project` is whole in most events and an id in some."""

    action: str
    project: dict[str, Any] | int | None = None

    @property
    def project_id(self) -> object:
        return self.project.get("id") if isinstance(self.project, dict) else self.project


class Routes:
    def __init__(self, settings: BackendSettings, predictor: Predictor, metrics: Metrics) -> None:
        self._settings = settings
        self._predictor = predictor
        self._metrics = metrics

    async def health(self, request: Request) -> Response:
        """Says that this process lives, and nothing about the queue: Label Studio waits one second."""
        return JSONResponse({"status": "UP", "model_class": MODEL_CLASS})

    async def setup(self, request: Request) -> Response:
        """A labeling configuration that cannot be used is no reason not to connect: it is often made after.
        The answer's `detail`, the log and each prompt's answer say what is wrong with it."""
        setup = await read_body(request, SetupRequest, self._settings.max_body_bytes)
        answer = {"model_version": NOT_READY}
        try:
            answer["model_version"] = await self._predictor.version() or NOT_READY
        except QueueUnavailable as error:
            log.warning("project %s: %s", setup.project, error)
        try:
            read_config(setup.label_config)
        except ConfigError as error:
            log.warning("project %s: %s", setup.project, error)
            answer["detail"] = str(error)
        return JSONResponse(answer)

    async def predict(self, request: Request) -> Response:
        asked = await read_body(request, PredictRequest, self._settings.max_body_bytes)
        try:
            results = await self._predictor.predict(asked)
        except Refused as error:
            raise HTTPException(error.status, str(error)) from error
        return JSONResponse({"results": results})

    async def versions(self, request: Request) -> Response:
        try:
            version = await self._predictor.version()
        except QueueUnavailable as error:
            raise HTTPException(503, str(error)) from error
        return JSONResponse({"versions": [version] if version else []})

    async def webhook(self, request: Request) -> Response:
        event = await read_body(request, WebhookRequest, self._settings.max_body_bytes)
        log.info("webhook %s, project %s", event.action, event.project_id)
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(
            await asyncio.to_thread(self._metrics.exposition), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def create_app(settings: BackendSettings) -> Starlette:
    """The ASGI application; it needs no Redis to start."""
    queue = SegmentQueue(settings)
    metrics = Metrics(queue)
    predictor = Predictor(settings, queue)
    routes = Routes(settings, predictor, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await predictor.aclose()

    return Starlette(
        routes=[
            Route("/", routes.health),
            Route("/health", routes.health),
            Route("/setup", routes.setup, methods=["POST"]),
            Route("/predict", routes.predict, methods=["POST"]),
            Route("/versions", routes.versions),
            Route("/webhook", routes.webhook, methods=["POST"]),
            Route("/metrics", routes.metrics),
        ],
        middleware=[Middleware(Edge, gate=Gate(settings), metrics=metrics)],
        exception_handlers={HTTPException: http_error},
        lifespan=lifespan,
    )
