"""Starting, watching and asking real worker processes."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from worker.jobs.contract import Priority, SegmentJob
from worker.jobs.queue import JobState, SegmentQueue
from worker.settings import Settings

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parent.parent
PATIENCE_S = 40.0


def png(width: int = 8, height: int = 6) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def data_url(width: int = 8, height: int = 6) -> str:
    return "data:image/png;base64," + base64.b64encode(png(width, height)).decode()


def question(prompt: str, priority: Priority = "interactive", image: str | None = None) -> SegmentJob:
    return SegmentJob(image=image or data_url(), prompt=prompt, priority=priority, project="1", task="2")


def eventually(condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
    """Returns when `condition` holds; fails naming `what` when it never does."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


async def ask(queue: SegmentQueue, job: SegmentJob, timeout_s: float) -> JobState:
    await asyncio.to_thread(queue.enqueue, job)
    return await queue.wait(job.job_id, timeout_s)


@dataclass
class Workers:
    """The worker processes of one test, the queue they serve and the prompts their models have seen."""

    redis_url: str
    folder: Path

    def __post_init__(self) -> None:
        self.settings = Settings(redis_url=self.redis_url)
        self.queue = SegmentQueue(self.settings)
        self.record = self.folder / "record.txt"
        self.record.touch()
        self.log = self.folder / "log.txt"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, kind: str = "hasty", **environment: str) -> subprocess.Popen[bytes]:
        """A worker of a class named in stand_in_worker.WORKERS."""
        return self._spawn([str(SUPPORT / "stand_in_worker.py"), kind], environment)

    def run_module(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """`python -m worker`."""
        return self._spawn(["-m", "worker", *arguments], environment)

    def _spawn(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stderr=log,
                env=os.environ
                | {"PYTHONPATH": str(ROOT), "REDIS_URL": self.redis_url, "RECORD": str(self.record)}
                | {"DATA_DIR": str(self.folder / "data")}
                | environment,
            )
        self._processes.append(process)
        return process

    def seen(self) -> list[str]:
        """The prompts the models were given, in order."""
        return [prompt for together in self.batches() for prompt in together]

    def batches(self) -> list[list[str]]:
        """The same, as they were given together."""
        return [line.split("\t") for line in self.record.read_text().splitlines()]

    def answer(self, job: SegmentJob, timeout_s: float = PATIENCE_S) -> JobState:
        async def answered() -> JobState:
            queue = SegmentQueue(self.settings)
            try:
                return await ask(queue, job, timeout_s)
            finally:
                await queue.aclose()

        return asyncio.run(answered())

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        asyncio.run(self.queue.aclose())
