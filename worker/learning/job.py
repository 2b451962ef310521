"""The training job: from a requested run to a published version. RQ calls `run` in a process of its own.

Whatever ends it early, the versions that served before still serve: a version is published as a whole, and
the pointer to it moves last. A run that is killed is started again and resumes from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import RedisError
from rq import get_current_job

from worker.jobs.queue import QueueUnavailable, SegmentQueue, connect
from worker.learning.project_lock import ProjectLock
from worker.learning.recipe import ReplayMix, hash_of_files, recipe_for
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, DatabaseUnavailable, dataset, runs
from worker.store.registry import Manifest, Registry, RegistryError, split_name
from worker.store.tables import TrainingRun, now

if TYPE_CHECKING:
    from pixellm_model.learning.finetune import Progress
    from pixellm_model.learning.recipe import FineTuneRecipe
    from worker.learning.candidate import Evaluated

log = logging.getLogger(__name__)

REPLAY = Path(__file__).parent / "replay"
REPORT_EVERY_S = 1.0
QUEUE_POLL_S = 0.2
MAX_PAUSE_S = 60.0  # of one step; annotators who never stop asking must not stop training for good
ADAPTER_NAME_CHARS = 12


class NothingToLearn(Exception):
    """A run without data or without anything new to learn; the message says which."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a run trains: everything that is known before the first step.

    Attributes:
        base: The base model's version. The model is loaded after training, which loads it for itself.
        snapshot: The frozen corrections.
        samples: What is trained on.
        recipe: How it is trained.
        parent: The version that serves the project now.
        adapter: The name of the new version's adapter, a hash of base, snapshot, replay and recipe.
    """

    base: str
    snapshot: dataset.Snapshot
    samples: ReplayMix
    recipe: FineTuneRecipe
    parent: str
    adapter: str

    @property
    def version(self) -> str:
        """The name of the new version."""
        return f"{self.base}+{self.adapter}"


_settings: WorkerSettings | None = None


def install(settings: WorkerSettings) -> None:
    """Make `settings` those of the runs in this process and the processes forked from it."""
    global _settings
    _settings = settings


def run(number: int) -> str:
    """Do a training run; RQ calls it.

    Args:
        number: The id of the run's row in `training_runs`.

    Returns:
        What became of it: `promoted`, `rejected`, `skipped` or `failed`; `done before` when it has ended
        already.

    Raises:
        DatabaseUnavailable: The database cannot be used; RQ starts the run again.
        RedisError: Redis cannot be used, or another run has taken the project's lock; likewise.
    """
    assert _settings is not None
    settings = _settings
    database = Database(settings)
    connection = connect(settings.redis_url)
    with database.read() as session:
        row = session.get(TrainingRun, number)
        if row is None or row.state not in runs.OPEN:
            return "done before"
        project = row.project
    with ProjectLock(connection, project) as lock:
        return Retraining(settings, database, connection, project, number, lock).run()


class Retraining:
    """One training run of a project."""

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        connection: Redis,
        project: str,
        number: int,
        lock: ProjectLock,
    ) -> None:
        """Set up the run; nothing is read or written yet.

        Args:
            settings: The worker's settings.
            database: Where the run's row and the corrections are.
            connection: Redis, for short commands.
            project: The project's number in Label Studio.
            number: The id of the run's row.
            lock: The project's lock, held by this run.
        """
        self.settings, self.database, self.connection = settings, database, connection
        self.project, self.number = project, number
        self.registry = Registry(settings)
        self.home = settings.data_dir / "training"
        self._lock = lock
        self._reported_at = 0.0
        self._snapshot: dataset.Snapshot | None = None

    def run(self) -> str:
        """Train, judge and publish, and record the outcome in the run's row.

        Returns:
            `promoted`, `rejected`, `skipped` or `failed`.

        Raises:
            DatabaseUnavailable: The database cannot be used.
            RedisError: Redis cannot be used, or another run has taken the project's lock.
        """
        try:
            manifest = self._run()
        except NothingToLearn as nothing:
            self._end("skipped", error=str(nothing))
            return "skipped"
        except (DatabaseUnavailable, RedisError):  # not the run's fault: RQ starts it again
            raise
        except Exception as error:  # whatever it is, a second attempt would fail as well
            log.error("training %d failed", self.number, exc_info=error)
            self._end("failed", error=str(error) or type(error).__name__)
            return "failed"
        state = "promoted" if manifest.verdict["promote"] else "rejected"
        self._end(state, version=manifest.name, verdict=manifest.verdict)
        return state

    def _run(self) -> Manifest:
        self._update(state="running", stage="data", started_at=now(), error=None)
        snapshot = self._freeze_data()
        self._check_enough_data(snapshot)
        plan = self._plan(snapshot)
        if (manifest := self._interrupted(plan)) is not None:
            return manifest
        self._update(stage="training", version=plan.version)
        adapter_folder = self._train(plan)
        self._update(stage="evaluating", seconds_left=None)
        evaluated = self._evaluate(plan, adapter_folder)
        return self._publish(plan, evaluated)

    def _freeze_data(self) -> dataset.Snapshot:
        corrections = dataset.corrections_of(
            self.database, self.project, self.settings.train_on == "reviewed"
        )
        if not corrections:
            raise NothingToLearn("there are no corrections to learn from yet")
        snapshot = dataset.freeze(corrections, Blobs(self.settings), self.home / "snapshots")
        self._snapshot = snapshot
        self._update(
            data={
                "snapshot": snapshot.hash,
                "corrections": len(corrections),
                "train": snapshot.train,
                "held_out": snapshot.held_out,
                "targets": snapshot.targets,
            }
        )
        return snapshot

    def _check_enough_data(self, snapshot: dataset.Snapshot) -> None:
        if not snapshot.train:
            raise NothingToLearn(f"all {snapshot.held_out} images are held out; correct more")
        if snapshot.held_out < self.settings.gate_min_held_out:
            # The gate could not promote the result, and training may take hours.
            raise NothingToLearn(
                f"too little data: {snapshot.held_out} of {snapshot.train + snapshot.held_out} images are "
                f"held out to measure on, {self.settings.gate_min_held_out} are needed; correct more images, "
                "or lower GATE_MIN_HELD_OUT"
            )

    def _plan(self, snapshot: dataset.Snapshot) -> TrainingPlan:
        from pixellm_model import checkpoint
        from pixellm_model.data import read_samples
        from pixellm_model.engine.segmenter import MINI

        corrections = read_samples(snapshot.folder, split="train")
        replay = self.settings.replay_data or REPLAY
        samples = ReplayMix(corrections, read_samples(replay))
        recipe = recipe_for(len(samples), self.settings.retrain_recipe)
        base = checkpoint.version(self.settings.model_dir or MINI)
        identity = json.dumps([base, snapshot.hash, hash_of_files(replay), asdict(recipe)], sort_keys=True)
        adapter = hashlib.sha256(identity.encode()).hexdigest()[:ADAPTER_NAME_CHARS]
        return TrainingPlan(
            base, snapshot, samples, recipe, self.registry.serving(self.project, base), adapter
        )

    def _interrupted(self, plan: TrainingPlan) -> Manifest | None:
        """Finish a run that was ended after it had published the version and before it was recorded.

        Returns:
            The version's manifest; None if there is no such version yet.

        Raises:
            NothingToLearn: The version is there, and a run of it has come to its end.
        """
        try:
            manifest = self.registry.manifest(plan.adapter)
        except RegistryError:
            return None
        with self.database.read() as session:
            if runs.has_ended(session, self.project, plan.version):
                raise NothingToLearn(f"version {plan.adapter} was trained on the same corrections already")
        self._update(version=plan.version)
        self._promote(plan, manifest)
        return manifest

    def _train(self, plan: TrainingPlan) -> Path:
        """Fine-tune an adapter, resuming from its last checkpoint; returns the adapter's folder."""
        from pixellm_model.learning.finetune import fine_tune

        return fine_tune(
            self.settings.model_dir,
            plan.samples,
            plan.recipe,
            self._run_folder(plan),
            device=self.settings.device,
            progress=self._progress,
            pause=self._yield_to_annotators,
            quiet=True,
        )

    def _evaluate(self, plan: TrainingPlan, adapter_folder: Path) -> Evaluated:
        """Choose the share of what was learned and compare the candidate with the serving version."""
        from pixellm_model import Segmenter
        from worker.learning.candidate import CandidateEvaluation

        base = Segmenter.from_pretrained(
            self.settings.model_dir, device=self.settings.device, dtype=self._dtype()
        )
        serving = base
        _, served_adapter = split_name(plan.parent)
        if served_adapter is not None:
            serving = base.with_adapter(self.registry.verified_folder(served_adapter), served_adapter)
        evaluation = CandidateEvaluation(
            self.settings, base, serving, plan.snapshot, self._yield_to_annotators
        )
        return evaluation.choose_share(adapter_folder, self._run_folder(plan))

    def _publish(self, plan: TrainingPlan, evaluated: Evaluated) -> Manifest:
        """Publish the version, promote it if the gate said so, and remove the checkpoints."""
        manifest = self.registry.publish(
            evaluated.folder,
            {
                "adapter": plan.adapter,
                "base": plan.base,
                "parent": plan.parent,
                "project": self.project,
                "snapshot": plan.snapshot.hash,
                "recipe": asdict(plan.recipe) | {"share": evaluated.metrics["share"]},
                "metrics": evaluated.metrics,
                "verdict": evaluated.verdict,
            },
        )
        self._promote(plan, manifest)
        return manifest

    def _promote(self, plan: TrainingPlan, manifest: Manifest) -> None:
        """Promote a version if the gate said so, and remove the checkpoints.

        A version was judged against its parent, so it is only promoted while that serves.
        """
        if manifest.verdict["promote"] and plan.parent == manifest.parent:
            why = f"training {self.number}: {manifest.verdict['why']}"
            self.registry.promote(self.project, plan.adapter, why)
        shutil.rmtree(self._run_folder(plan) / "checkpoints", ignore_errors=True)

    def _run_folder(self, plan: TrainingPlan) -> Path:
        return self.home / "runs" / plan.adapter

    def _dtype(self) -> str:
        # Training needs full precision; workers may round what they serve.
        return "auto" if self.settings.dtype == "int8" else self.settings.dtype

    def _yield_to_annotators(self) -> None:
        """Pause while an annotator waits for an answer, so that the device is free for it.

        Raises:
            LockNotOwnedError: Another run has taken the project's lock.
        """
        self._lock.check()
        deadline = time.monotonic() + MAX_PAUSE_S
        try:
            while time.monotonic() < deadline:
                depth = self._segment_queue.depth()
                if not depth.interactive + depth.warm + depth.running_interactive:
                    return
                time.sleep(QUEUE_POLL_S)
        except QueueUnavailable:
            return

    @cached_property
    def _segment_queue(self) -> SegmentQueue:
        return SegmentQueue(self.settings)

    def _progress(self, progress: Progress) -> None:
        """Record the progress of training, at most once in REPORT_EVERY_S."""
        if time.monotonic() < self._reported_at + REPORT_EVERY_S and progress.step < progress.steps:
            return
        self._reported_at = time.monotonic()
        try:
            self._update(
                step=progress.step,
                steps=progress.steps,
                loss=progress.loss,
                seconds_left=progress.seconds_left,
            )
        except (DatabaseUnavailable, RedisError) as error:
            log.warning("training %d goes on, its progress is not shown: %s", self.number, error)

    def _update(self, **values: Any) -> None:
        """Set columns of the run's row, and what is simple of them in its RQ job."""
        with self.database.session() as session:
            row = session.get_one(TrainingRun, self.number)
            for name, value in values.items():
                setattr(row, name, value)
        if job := get_current_job():
            job.meta |= {name: v for name, v in values.items() if isinstance(v, int | float | str)}
            job.save_meta()

    def _end(self, state: str, error: str | None = None, **values: Any) -> None:
        if self._snapshot is not None:
            # What is deleted in Label Studio must not survive here; the store has the images.
            shutil.rmtree(self._snapshot.folder / "images", ignore_errors=True)
        with self.database.session() as session:
            row = session.get_one(TrainingRun, self.number)
            runs.finish(row, state, error)
            for name, value in values.items():
                setattr(row, name, value)
        log.info(
            "project %s: training %d is %s%s", self.project, self.number, state, f": {error}" if error else ""
        )
