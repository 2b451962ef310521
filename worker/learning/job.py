"""One retraining, from requested run to published version; RQ calls `run` by name, in a process of its own.

Whatever ends it early, all that served before serves on: a version is published whole, and the pointer moves
last. Killed, it is run again and goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import RedisError
from rq import get_current_job

from worker.jobs.queue import QueueUnavailable, SegmentQueue, connect
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, DatabaseUnavailable, dataset, runs
from worker.store.registry import Manifest, Registry, RegistryError
from worker.store.tables import TrainingRun, now

if TYPE_CHECKING:
    from pixellm_model.learning.finetune import FineTuneRecipe, Progress
    from pixellm_model.samples import Sample

log = logging.getLogger(__name__)

REHEARSAL = Path(__file__).parent / "replay"
LOCK_S = 120  # a dead run's hold on its project ends after this time
REPORT_EVERY_S = 1.0
YIELD_LOOK_S = 0.2
LONGEST_YIELD_S = 60.0  # for one step; annotators who never stop asking do not stop training for good
# Steps are what a run costs: 50 corrections take some minutes on two CPU cores, ten thousand not days.
EPOCHS, LEAST_STEPS, MOST_STEPS = 10, 60, 2000


class NothingToLearn(Exception):
    """A run that has no data or nothing new; the message says which."""


def run(number: int) -> str:
    """Does training run `number`; returns what became of it."""
    settings = WorkerSettings.model_validate({})
    database = Database(settings)
    connection = connect(settings.redis_url)
    with database.session() as session:
        asked = session.get(TrainingRun, number)
        if asked is None or asked.state not in runs.OPEN:
            return "done before"
        project = asked.project
    with _alone(connection, project, number):
        return Retraining(settings, database, connection, project, number).run()


class Retraining:
    def __init__(
        self, settings: WorkerSettings, database: Database, connection: Redis, project: str, number: int
    ) -> None:
        self.settings, self.database, self.connection = settings, database, connection
        self.project, self.number = project, number
        self.registry = Registry(settings)
        self.home = settings.data_dir / "training"
        self._reported = 0.0
        self._snapshot: dataset.Snapshot | None = None

    def run(self) -> str:
        try:
            manifest = self._run()
        except NothingToLearn as nothing:
            self._end("skipped", error=str(nothing))
            return "skipped"
        except (DatabaseUnavailable, RedisError):  # theirs, not the run's: RQ runs it again
            raise
        except Exception as error:  # whatever it is, it would be so again
            log.error("training %d failed", self.number, exc_info=error)
            self._end("failed", error=str(error) or type(error).__name__)
            return "failed"
        state = "promoted" if manifest.verdict["promote"] else "rejected"
        self._end(state, version=manifest.name, verdict=manifest.verdict)
        return state

    def _run(self) -> Manifest:
        from pixellm_model import Segmenter
        from pixellm_model.data import read_samples
        from pixellm_model.learning.finetune import fine_tune
        from worker.learning.candidate import Trial

        self._note(state="running", stage="data", started_at=now(), error=None)
        found = dataset.corrections_of(self.database, self.project)
        if not found:
            raise NothingToLearn("there are no corrections to learn from yet")
        snapshot = dataset.freeze(found, Blobs(self.settings), self.home / "snapshots")
        self._snapshot = snapshot
        self._note(
            data={
                "snapshot": snapshot.hash,
                "corrections": len(found),
                "train": snapshot.train,
                "held_out": snapshot.held_out,
                "targets": snapshot.targets,
            }
        )
        if not snapshot.train:
            raise NothingToLearn(f"all {snapshot.held_out} images are held out; correct more")
        if snapshot.held_out < self.settings.gate_min_held_out:
            # The gate could not promote what would come of it, and training may take hours.
            raise NothingToLearn(
                f"too little data: {snapshot.held_out} of {snapshot.train + snapshot.held_out} images are "
                f"held out to measure on, {self.settings.gate_min_held_out} are needed; correct more images, "
                "or lower GATE_MIN_HELD_OUT"
            )
        corrections = read_samples(snapshot.folder, split="train")
        rehearsal = read_samples(self.settings.rehearsal_data or REHEARSAL)
        train = Rehearsed(corrections, rehearsal)
        recipe = recipe_for(len(train), self.settings.retrain_recipe)
        base = Segmenter.from_pretrained(
            self.settings.model_dir, device=self.settings.device, dtype=self._dtype()
        )
        identity = json.dumps([base.version, snapshot.hash, asdict(recipe)], sort_keys=True)
        adapter = hashlib.sha256(identity.encode()).hexdigest()[:12]
        parent = self.registry.serving(self.project, base.version)
        if parent == f"{base.version}+{adapter}" or self._known(adapter):
            raise NothingToLearn(f"version {adapter} was trained on the same corrections already")
        self._note(stage="training", version=f"{base.version}+{adapter}")
        out = self.home / "runs" / adapter
        folder = fine_tune(
            self.settings.model_dir,
            train,
            recipe,
            out,
            device=self.settings.device,
            progress=self._progress,
            pause=self._yield_to_annotators,
            quiet=True,
        )
        self._note(stage="evaluating", seconds_left=None)
        rival = base
        if parent != base.version:
            served = parent.partition("+")[2]
            rival = base.with_adapter(self.registry.folder(served), served)
        trial = Trial(self.settings, base, rival, snapshot, self._yield_to_annotators)
        softened, verdict, metrics = trial.best_of(folder, out)
        manifest = self.registry.publish(
            softened,
            {
                "adapter": adapter,
                "base": base.version,
                "parent": parent,
                "project": self.project,
                "snapshot": snapshot.hash,
                "recipe": asdict(recipe) | {"share": metrics["share"]},
                "metrics": metrics,
                "verdict": verdict,
            },
        )
        if manifest.verdict["promote"]:
            self.registry.promote(self.project, adapter, f"training {self.number}: {verdict['why']}")
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return manifest

    def _dtype(self) -> str:
        # Learned in full precision; a worker may round what it serves.
        return "auto" if self.settings.dtype == "int8" else self.settings.dtype

    def _known(self, adapter: str) -> bool:
        try:
            self.registry.manifest(adapter)
        except RegistryError:
            return False
        return True

    def _yield_to_annotators(self) -> None:
        """Waits while somebody waits for a prompt, so that the device is theirs."""
        queue = self._queue()
        until = time.monotonic() + LONGEST_YIELD_S
        try:
            self.connection.expire(_lock_key(self.project), LOCK_S)
            while time.monotonic() < until:
                depth = queue.depth()
                if not depth.interactive + depth.warm + depth.running_interactive:
                    return
                time.sleep(YIELD_LOOK_S)
        except (QueueUnavailable, RedisError):
            return

    def _queue(self) -> SegmentQueue:
        if not hasattr(self, "_segment_queue"):
            self._segment_queue = SegmentQueue(self.settings)
        return self._segment_queue

    def _progress(self, progress: Progress) -> None:
        if time.monotonic() < self._reported + REPORT_EVERY_S and progress.step < progress.steps:
            return
        self._reported = time.monotonic()
        try:
            self._note(
                step=progress.step,
                steps=progress.steps,
                loss=progress.loss,
                seconds_left=progress.seconds_left,
            )
        except (DatabaseUnavailable, RedisError) as error:
            log.warning("training %d goes on, its progress is not shown: %s", self.number, error)

    def _note(self, **values: Any) -> None:
        with self.database.session() as session:
            row = session.get_one(TrainingRun, self.number)
            for name, value in values.items():
                setattr(row, name, value)
        if job := get_current_job():
            shown = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
            job.meta |= shown
            job.save_meta()

    def _end(self, state: str, error: str | None = None, **values: Any) -> None:
        if self._snapshot is not None:
            # What is deleted in Label Studio must not live on here; the store has the images.
            shutil.rmtree(self._snapshot.folder / "images", ignore_errors=True)
        with self.database.session() as session:
            row = session.get_one(TrainingRun, self.number)
            runs.finish(row, state, error)
            for name, value in values.items():
                setattr(row, name, value)
        log.info(
            "project %s: training %d is %s%s", self.project, self.number, state, f": {error}" if error else ""
        )


class Rehearsed:
    """Corrections, and for each of them a rehearsed sample: what is only learned and never rehearsed is
    forgotten (on the mini, corrections alone halved gIoU on other scenes)."""

    def __init__(self, corrections: Sequence[Sample], rehearsal: Sequence[Sample]) -> None:
        self._corrections, self._rehearsal = corrections, rehearsal

    def __len__(self) -> int:
        return 2 * len(self._corrections)

    def __getitem__(self, index: int) -> Sample:
        nth, rehearsed = divmod(index, 2)
        return self._rehearsal[nth % len(self._rehearsal)] if rehearsed else self._corrections[nth]


def recipe_for(images: int, path: Path | None) -> FineTuneRecipe:
    """The recipe of a retraining on so many images, or the one in a file. Raises DataError."""
    from pixellm_model.learning.finetune import FineTuneRecipe, steps_of

    if path is not None:
        return FineTuneRecipe.from_file(path)
    recipe = FineTuneRecipe(
        epochs=EPOCHS, lr=4e-4, batch_size=4, warmup_steps=5, max_targets=6, save_steps=20
    )
    return replace(recipe, max_steps=min(max(steps_of(recipe, images), LEAST_STEPS), MOST_STEPS))


@contextmanager
def _alone(connection: Redis, project: str, number: int) -> Iterator[None]:
    """Within it no other run trains this project. A run that was killed comes back to its own lock."""
    key, mine = _lock_key(project), str(number)
    while not connection.set(key, mine, nx=True, ex=LOCK_S) and connection.get(key) != mine.encode():
        time.sleep(1.0)
    try:
        yield
    finally:
        if connection.get(key) == mine.encode():
            connection.delete(key)


def _lock_key(project: str) -> str:
    return f"pixellm:training:{project}"
