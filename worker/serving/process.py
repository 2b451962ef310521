"""The segmentation worker's process: connect, load the model, serve until asked to stop by a signal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from worker.images.fetch import ImageFetcher
from worker.jobs.queue import connect, connect_blocking
from worker.serving.engine import Engine, install
from worker.serving.image_cache import ImageCache
from worker.serving.model import Model
from worker.serving.versions import Versions
from worker.serving.warm_worker import WarmWorker
from worker.settings import WorkerSettings
from worker.startup import EXIT_CANNOT_START, EXIT_FAILED, configure_logging
from worker.store.registry import Registry

log = logging.getLogger(__name__)


def serve(
    settings: WorkerSettings,
    load: Callable[[WorkerSettings], tuple[Model, str]],
    worker_class: type[WarmWorker] = WarmWorker,
) -> int:
    """Run a segmentation worker until it is asked to stop by a signal.

    The worker's status is published before the model is loaded; jobs wait in the queue meanwhile.

    Args:
        settings: The worker's settings.
        load: Loads the model; returns it and the device it is on.
        worker_class: The RQ worker; tests replace it.

    Returns:
        The exit code of the process.
    """
    configure_logging(settings.log_level)
    try:
        with connect(settings.redis_url) as redis:
            redis.ping()
    except (RedisError, ValueError) as error:
        log.error("Redis (REDIS_URL) cannot be used: %s", error)
        return EXIT_CANNOT_START

    worker = worker_class(
        connect_blocking(settings.redis_url), settings.job_timeout_s, settings.worker_batch_size
    )
    with worker.alive():
        try:
            model, device = load(settings)
        except Exception as error:
            log.error("The model cannot be loaded: %s", error)
            log.debug("traceback", exc_info=error)
            return EXIT_CANNOT_START
        images = ImageCache(ImageFetcher(settings), model.prepare, settings.image_cache_bytes)
        versions = Versions(model, Registry(settings), settings.adapters_kept)
        install(Engine(versions, images, settings.worker_batch_size))
        with suppress(StopRequested):  # asked to stop before `work`
            worker.ready(model.version, device, model.follows_up)
            log.info("ready: %s on %s", model.version, device)
            worker.work(logging_level="DEBUG" if settings.log_level == "DEBUG" else "WARNING")
    return 0 if worker.stopped_on_request else EXIT_FAILED
