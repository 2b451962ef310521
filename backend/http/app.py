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

from backend.corrections.webhook_inbox import Inbox
from backend.http.auth import Gate
from backend.http.metrics import Metrics
from backend.http.middleware import Edge, http_error, parse_body, read_body, read_bytes
from backend.prompts.predictor import Predictor, PredictRequest, Refused
from backend.settings import BackendSettings
from label_config import ConfigError, read_config
from worker.jobs.queue import QueueUnavailable, SegmentQueue, connect
from worker.store import Database, DatabaseUnavailable

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
    def project_id(self) -> str | None:
        number = self.project.get("id") if isinstance(self.project, dict) else self.project
        return str(number) if isinstance(number, int | str) else None


class Routes:
    def __init__(
        self, settings: BackendSettings, predictor: Predictor, inbox: Inbox, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._predictor = predictor
        self._inbox = inbox
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
            answer["model_version"] = await self._predictor.version(setup.project) or NOT_READY
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
        """All versions that could answer; Label Studio does not say for which project it asks."""
        try:
            return JSONResponse({"versions": await self._predictor.versions()})
        except QueueUnavailable as error:
            raise HTTPException(503, str(error)) from error

    async def webhook(self, request: Request) -> Response:
        """Keeps the event and answers at once; `backend.corrections.collector` makes sense of it."""
        body = await read_bytes(request, self._settings.max_body_bytes)
        event = await parse_body(body, WebhookRequest)
        await asyncio.to_thread(self._inbox.take, event.action, event.project_id, body)
        log.info("webhook %s, project %s", event.action, event.project_id)
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(
            await asyncio.to_thread(self._metrics.exposition), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def create_app(settings: BackendSettings) -> Starlette:
    """The ASGI application; it needs neither Redis nor the database to start."""
    queue = SegmentQueue(settings)
    metrics = Metrics(queue)
    database = Database(settings)
    predictor = Predictor(settings, queue, database)
    inbox = Inbox(database, connect(settings.redis_url), settings.data_dir / "inbox")
    routes = Routes(settings, predictor, inbox, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(database.migrate)
        except DatabaseUnavailable as error:
            log.warning("%s", error)
        yield
        await predictor.aclose()
        database.close()

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
