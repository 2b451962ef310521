"""A real worker process whose model does what the prompt says. Run with REDIS_URL and RECORD (a file) set.

Its argument names the kind: `patient` is the worker as users run it, `hasty` counts a silent worker as dead
sooner, `taken` and `started` kill themselves before and after the jobs they took are recorded as running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from rq.executions import Execution
from rq.job import Job

from pixellm_model import Click, Picture, PromptError, Request
from worker.jobs.priority_queue import PriorityQueue
from worker.serving.model import Model
from worker.serving.process import serve
from worker.serving.warm_worker import WarmWorker
from worker.settings import WorkerSettings


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang_in_c() -> None:
    """Waits for a mutex it holds itself, with the interpreter lock held: no signal handler ever runs."""
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


class ObedientModel:
    """Notes the prompts of each call in one line of RECORD, then does what they say."""

    version = os.environ.get("VERSION", "stand-in-1")
    follows_up = os.environ.get("FOLLOWS_UP", "1") == "1"

    def segment_batch(self, requests: Sequence[Request]) -> list[SimpleNamespace | PromptError]:
        note("\t".join(question.prompt for question in requests))
        return [obey(question) for question in requests]

    def refine(
        self,
        image: Picture,
        clicks: Sequence[Click],
        mask: np.ndarray | None = None,
        box: tuple[float, float, float, float] | None = None,
        adjust: str | None = None,
    ) -> SimpleNamespace:
        """The mask with the pixels of positive clicks added and those of negative ones removed; adjusted, it
        loses its first row or gains one below."""
        note(f"refine {len(clicks)} clicks, {'a' if mask is not None else 'no'} mask, box {box}")
        result = np.zeros(image.original, bool) if mask is None else mask.copy()
        if adjust is not None:
            rows, columns = np.nonzero(result)
            changed = rows.min() if adjust == "tighter" else rows.max() + 1
            result[changed, columns] = adjust != "tighter"
        if box is not None:
            left, top, right, bottom = (round(side) for side in box)
            result[top:bottom, left:right] = True
        for click in clicks:
            result[int(click.y), int(click.x)] = click.positive
        return SimpleNamespace(phrase="", mask=result, score=0.5, box=(0, 0, 1, 1))

    def prepare(self, image: Image.Image) -> Picture:
        return SimpleNamespace(original=(image.height, image.width), nbytes=4 * image.width * image.height)

    def with_adapter(self, folder: Path, name: str) -> ObedientModel:
        adapted = ObedientModel()
        adapted.version = f"{self.version}+{name}"
        return adapted

    def warm(self, image: Picture) -> None:
        height, width = image.original
        note(f"warm {width} x {height}")


def note(line: str) -> None:
    with Path(os.environ["RECORD"]).open("a") as record:
        record.write(f"{line}\n")


def obey(question: Request) -> SimpleNamespace | PromptError:
    match question.prompt.split():
        case ["sleep", seconds, *_]:
            time.sleep(float(seconds))
        case ["die"]:
            die()
        case ["hang"]:
            hang_in_c()
        case ["raise"]:
            raise RuntimeError("an internal detail")
        case ["refuse"]:
            return PromptError("The prompt is too long for the model; shorten it.")
        case ["nothing", *_] | ["the", "missing", *_]:
            return SimpleNamespace(answer="There is none.", targets=(), warnings=(), timings={}, unknown=())
    assert not isinstance(question.image, Image.Image), "the worker asks about what was prepared"
    mask = np.zeros(question.image.original, dtype=bool)
    mask[:2, :3] = True
    target = SimpleNamespace(phrase=question.prompt, mask=mask, score=0.75, box=(0, 0, 3, 2))
    return SimpleNamespace(
        answer=f"{question.prompt}, after {len(question.history)} turns [1]",
        targets=(target,),
        warnings=("a warning",),
        timings={"generate": 0.1},
        unknown=("rocket",) if "rocket" in question.prompt else (),
    )


class HastyQueue(PriorityQueue):
    stuck_after_s = 1


class HastyWorker(WarmWorker):
    queue_class = HastyQueue
    execution_ttl_s = 2
    heartbeat_every_s = 0.5
    hang_grace_s = 1


class DiesWhenTaken(HastyWorker):
    def start_executions(self, jobs: Sequence[Job], execution_ttl_s: int) -> list[Execution]:
        die()
        raise AssertionError("dead by now")


class DiesWhenStarted(HastyWorker):
    def start_executions(self, jobs: Sequence[Job], execution_ttl_s: int) -> list[Execution]:
        super().start_executions(jobs, execution_ttl_s)
        die()
        raise AssertionError("dead by now")


WORKERS = {
    "patient": WarmWorker,
    "hasty": HastyWorker,
    "taken": DiesWhenTaken,
    "started": DiesWhenStarted,
}


def load(settings: WorkerSettings) -> tuple[Model, str]:
    time.sleep(float(os.environ.get("LOAD_S", "0")))
    return ObedientModel(), os.environ.get("DEVICE", "cpu")


if __name__ == "__main__":
    sys.exit(serve(WorkerSettings(), load, WORKERS[sys.argv[1]]))
