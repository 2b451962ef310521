"""Seconds from Enter to masks while nothing else runs, during a batch, and during a training.

    python -m benchmarks.waiting [--scenes N] [--json]

Backend, Redis, worker and learner run as in production, with the shipped mini. In each situation one
annotator asks a first prompt and two more on each of N rendered scenes, with a pause between them. The batch
is 200 pre-labelling tasks, the training learns from the replay scenes. The baseline is the first situation of
the same run.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import torch

from benchmarks.prompt import ask
from benchmarks.queue import CONFIG, Running, services
from pixellm_model.data import SampleSet, read_samples
from worker.jobs.masks import to_rle
from worker.jobs.queue import connect
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, runs
from worker.store.corrections import store
from worker.store.tables import Correction, TrainingRun, now

LEARNING = Path(__file__).parents[1] / "worker" / "learning"
PROJECT = "1"
BATCH = 200
PROMPTS = ("the cup", "the book", "the apple")  # on each scene, one after the other
PAUSE_S = 0.5
TRAINING_START_S = 120.0


def photos(count: int) -> list[str]:
    """The first `count` regression scenes as data URLs, in which no two are the same picture."""
    files = sorted((LEARNING / "regression" / "images").iterdir())[:count]
    return [
        f"data:image/{file.suffix[1:]};base64,{base64.b64encode(file.read_bytes()).decode()}"
        for file in files
    ]


def annotate(client: httpx.Client, images: list[str]) -> tuple[list[float], list[float]]:
    """Ask about each image.

    Args:
        client: Of the backend.
        images: The images' addresses.

    Returns:
        Seconds of the first prompt on each image, and of the further ones.
    """
    first, further = list[float](), list[float]()
    for image in images:
        for number, prompt in enumerate(PROMPTS):
            time.sleep(PAUSE_S)
            (further if number else first).append(ask(client, image, prompt))
    return first, further


@contextmanager
def batch(running: Running, images: list[str]) -> Iterator[None]:
    """Have BATCH tasks pre-labelled meanwhile, in requests of ten as Label Studio sends them."""
    stop = threading.Event()

    def retrieve() -> None:
        with httpx.Client(base_url=running.url, timeout=600) as client:
            for start in range(0, BATCH, 10):
                if stop.is_set():
                    return
                tasks = [
                    # A space more makes another address, so that no answer is taken from an earlier one.
                    {"id": start + number, "data": {"image": images[number % len(images)] + " " * start}}
                    for number in range(10)
                ]
                client.post("/predict", json={"tasks": tasks, "label_config": CONFIG}).raise_for_status()

    thread = threading.Thread(target=retrieve)
    thread.start()
    try:
        yield
        if not thread.is_alive():
            raise RuntimeError("the batch ended before the prompts; raise BATCH")
    finally:
        stop.set()
        thread.join()


@contextmanager
def training(running: Running) -> Iterator[None]:
    """Have a project trained meanwhile.

    Raises:
        RuntimeError: The training did not start, or it ended before the prompts.
    """
    os.environ |= {name: running.environment[name] for name in ("DATA_DIR", "REDIS_URL")}
    settings = WorkerSettings.model_validate({})
    database = Database(settings)
    database.migrate()
    samples = read_samples(LEARNING / "replay")
    assert isinstance(samples, SampleSet)
    with database.session() as session:
        for number, correction in enumerate(_corrections(samples, Blobs(settings)), start=1):
            correction.annotation = correction.task = str(number)
            store(session, correction)
    learner = subprocess.Popen([sys.executable, "-m", "worker", "learn"], env=running.environment)
    try:
        run = runs.request(database, connect(settings.redis_url), PROJECT, "a benchmark")
        deadline = time.monotonic() + TRAINING_START_S
        while not _steps_done(database, run):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the training did not start: {_state(database, run)}")
            time.sleep(0.5)
        yield
        if (state := _state(database, run)) != "running":
            raise RuntimeError(f"the training ended before the prompts: {state}")
    finally:
        learner.kill()
        learner.wait()
        database.close()


def _corrections(samples: SampleSet, blobs: Blobs) -> Iterator[Correction]:
    for number, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        turns = []
        for question in sample.questions:
            targets = [
                {"phrase": phrase, "label": phrase, "mask": to_rle(mask).model_dump(mode="json")}
                for phrase, mask in zip(question.phrases, question.masks, strict=True)
            ]
            turns.append({"prompt": question.text, "history": [], "answer": None, "targets": targets})
        yield Correction(
            annotation="",
            project=PROJECT,
            task="",
            status="labelled",
            updated_at=datetime.now(UTC),
            image=blobs.put(samples.records[number].image.read_bytes()),
            width=width,
            height=height,
            turns=turns,
            outcomes=[],
            taken_at=now(),
        )


def _steps_done(database: Database, run: int) -> bool:
    with database.session() as session:
        row = session.get_one(TrainingRun, run)
        return row.state == "running" and bool(row.step)


def _state(database: Database, run: int) -> str:
    with database.session() as session:
        return session.get_one(TrainingRun, run).state


def rows(scenes: int) -> Iterator[dict[str, str | float]]:
    """The rows of the table, one for each situation."""
    images = photos(4 * scenes)
    with services(("-m", "worker")) as running, httpx.Client(base_url=running.url, timeout=120) as client:
        annotate(client, images[:1])  # loads what the first prompt of a process loads
        quiet = annotate(client, images[1 : scenes + 1])
        yield _row("nothing else", quiet, quiet)
        with batch(running, images[-scenes:]):
            yield _row("a batch", annotate(client, images[scenes + 1 : 2 * scenes + 1]), quiet)
        with training(running):
            yield _row("a training", annotate(client, images[2 * scenes + 1 : 3 * scenes + 1]), quiet)


def _row(
    name: str, seconds: tuple[list[float], list[float]], quiet: tuple[list[float], list[float]]
) -> dict[str, str | float]:
    row: dict[str, str | float] = {"meanwhile": name}
    for column, values, baseline in zip(("first", "next"), seconds, quiet, strict=True):
        median = statistics.median(values)
        row[f"{column}_s"] = round(median, 2)
        row[f"{column}_max_s"] = round(max(values), 2)
        row[f"{column}_ratio"] = round(median / statistics.median(baseline), 1)
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.waiting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenes", type=int, default=6, help="rendered scenes a situation (default: 6)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per row")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}", file=sys.stderr)
    for number, row in enumerate(rows(arguments.scenes)):
        if arguments.json:
            print(json.dumps(row), flush=True)
            continue
        if number == 0:
            print("".join(f"{name:>14}" for name in row))
        print("".join(f"{value:>14}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
