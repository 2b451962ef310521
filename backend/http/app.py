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

from backend.corrections.webhook_inbox import WebhookInbox, spool_folder
from backend.http.auth import RequestAuth
from backend.http.body import parse_body, read_body, read_bytes
from backend.http.metrics import Metrics
from backend.http.middleware import RequestMiddleware, http_error
from backend.http.reasons import reason_header
from backend.prompts.predictor import Predictor, RequestRefused
from backend.prompts.request import PredictRequest
from backend.settings import BackendSettings
from label_config import ConfigError
from label_config.explain import explain
from label_config.reader import has_controls
from worker.jobs.queue import QueueUnavailable, SegmentQueue, connect
from worker.store import Database, DatabaseUnavailable
from worker.store.registry import PROJECT_NAME

log = logging.getLogger(__name__)

MODEL_CLASS = "PixelLM"
WEBHOOK_PATIENCE_S = 2.0
NOT_READY = "pixellm (loading)"


class SetupRequest(BaseModel):
    """The body of /setup; its access token is ignored, since the backend has LABEL_STUDIO_API_KEY."""

    project: str | None = None
    label_config: str = Field("", alias="schema")


class WebhookRequest(BaseModel):
    """The body of /webhook; `project` is an object in most events and an id in some."""

    action: str
    project: dict[str, Any] | int | None = None

    @property
    def project_id(self) -> str | None:
        """The project's id, if the event has one."""
        number = self.project.get("id") if isinstance(self.project, dict) else self.project
        return str(number) if PROJECT_NAME.fullmatch(str(number)) else None


class Routes:
    """The handlers of all routes."""

    def __init__(
        self, settings: BackendSettings, predictor: Predictor, inbox: WebhookInbox, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._predictor = predictor
        self._inbox = inbox
        self._metrics = metrics
        self._limits: dict[str | None, tuple[str, ...]] = {}  # what was said about each project

    async def health(self, request: Request) -> Response:
        """Respond that this process lives, without asking the queue: Label Studio waits one second."""
        return JSONResponse({"status": "UP", "model_class": MODEL_CLASS})

    async def setup(self, request: Request) -> Response:
        """Connect a project.

        A labeling configuration without any control is no error, because it is often written later. What is
        wrong with another one is in the response, which makes Label Studio show the state "Error", in the
        log, and in the answer to each prompt. What a usable one asks for in vain is in the log.

        Raises:
            HTTPException: 400 or 413 if the body cannot be used, 422 if the configuration cannot.
        """
        setup = await read_body(request, SetupRequest, self._settings.max_body_bytes)
        content = {"model_version": NOT_READY}
        try:
            content["model_version"] = await self._predictor.version(setup.project) or NOT_READY
        except QueueUnavailable as error:
            log.warning("project %s: %s", setup.project, error)
        try:
            limits = explain(setup.label_config).limits
        except ConfigError as error:
            log.warning("project %s: %s", setup.project, error)
            if has_controls(setup.label_config):
                raise HTTPException(422, str(error), reason_header(str(error))) from error
            content["detail"] = str(error)
        else:
            # Label Studio sends this whenever somebody opens the project.
            if self._limits.get(setup.project) != limits:
                self._limits[setup.project] = limits
                for limit in limits:
                    log.warning("project %s: %s", setup.project, limit)
        return JSONResponse(content)

    async def predict(self, request: Request) -> Response:
        """Answer a prompt or a batch.

        Raises:
            HTTPException: 400 if body, labeling configuration or prompt cannot be used; 413 if the body is
                too large; 503 if there is no result and no answer control to show why.
        """
        body = await read_body(request, PredictRequest, self._settings.max_body_bytes)
        try:
            results = await self._predictor.predict(body)
        except RequestRefused as error:
            raise HTTPException(error.status, str(error)) from error
        return JSONResponse({"results": results})

    async def versions(self, request: Request) -> Response:
        """Respond with all versions; Label Studio does not say for which project it asks.

        Raises:
            HTTPException: 503 if Redis cannot be used.
        """
        try:
            return JSONResponse({"versions": await self._predictor.versions()})
        except QueueUnavailable as error:
            raise HTTPException(503, str(error)) from error

    async def webhook(self, request: Request) -> Response:
        """Store the event and respond at once; the collector processes it (`backend.corrections`).

        Raises:
            HTTPException: 400 or 413 if the body cannot be used; 503 if it cannot be stored anywhere.
        """
        body = await read_bytes(request, self._settings.max_body_bytes)
        event = await parse_body(body, WebhookRequest)
        try:
            await self._inbox.database.run(self._inbox.store, event.action, event.project_id, body)
        except OSError as error:
            log.error("a webhook is lost, since nothing can be written: %s", error)
            raise HTTPException(
                503, f"Neither the database nor the spool folder can be written: {error}"
            ) from error
        log.info("webhook %s, project %s", event.action, event.project_id)
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Respond with the metrics in Prometheus' text format."""
        return Response(
            await asyncio.to_thread(self._metrics.exposition), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def create_app(settings: BackendSettings) -> Starlette:
    """Make the ASGI application; it starts without Redis and without the database."""
    queue = SegmentQueue(settings)
    metrics = Metrics(queue)
    database = Database(settings)
    predictor = Predictor(settings, queue, database)
    # Label Studio waits a second, and the spool folder is there for what the database does not take by then.
    inbox_database = Database(settings, WEBHOOK_PATIENCE_S)
    inbox = WebhookInbox(inbox_database, connect(settings.redis_url), spool_folder(settings))
    routes = Routes(settings, predictor, inbox, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await database.run(database.migrate)
        except DatabaseUnavailable as error:
            log.warning("%s", error)
        predictor.start()
        yield
        await predictor.aclose()
        inbox_database.close()
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
        middleware=[Middleware(RequestMiddleware, auth=RequestAuth(settings), metrics=metrics)],
        exception_handlers={HTTPException: http_error},
        lifespan=lifespan,
    )
