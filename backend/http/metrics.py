"""Prometheus metrics: requests by route, and the state of the queue at the time of the scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.jobs.queue import QueueUnavailable, SegmentQueue

# From a look-up to the longest time that a prompt may wait.
BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 100)


class Metrics:
    """The metrics of one application; each has a registry of its own, so that two in a process do not mix."""

    def __init__(self, queue: SegmentQueue) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pixellm_http_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "pixellm_http_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(QueueCollector(queue))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            route: The path of its route.
            status: The status of the response.
            seconds: How long it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format; blocks, because it asks Redis."""
        return generate_latest(self._registry)


class QueueCollector(Collector):
    """Reads the queue's depth and its workers at every scrape."""

    def __init__(self, queue: SegmentQueue) -> None:
        self._queue = queue

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return nothing, so that registering does not ask Redis."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; only `pixellm_queue_up` if Redis does not answer."""
        try:
            depth, workers = self._queue.depth(), self._queue.worker_status()
        except QueueUnavailable:
            yield GaugeMetricFamily("pixellm_queue_up", "Whether the queue's Redis answers.", 0)
            return
        yield GaugeMetricFamily("pixellm_queue_up", "Whether the queue's Redis answers.", 1)
        waiting = GaugeMetricFamily("pixellm_queue_waiting", "Jobs waiting.", labels=["priority"])
        waiting.add_metric(["interactive"], depth.interactive)
        waiting.add_metric(["batch"], depth.batch)
        waiting.add_metric(["warm"], depth.warm)
        yield waiting
        yield GaugeMetricFamily("pixellm_queue_running", "Jobs being computed.", depth.running)
        ready = sum(worker.state == "ready" for worker in workers)
        yield GaugeMetricFamily("pixellm_workers_ready", "Workers with a loaded model.", ready)
