"""An answer of 30 masks on 12 megapixels as regions of each kind: size and time, against brush regions.

    python -m benchmarks.regions [--json]

Ratios are to brush regions in the same run; under 1 is smaller or faster.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np

from backend.prompts.regions import build_prediction
from backend.prompts.shapes import without_speckles
from label_config import read_config
from pixellm_model.samples import Mask
from worker.jobs.contract import SegmentResult, TargetResult
from worker.jobs.masks import to_rle

WIDTH, HEIGHT = 4000, 3000
TARGETS = 30
WAVES = 9
CONTROLS = ("BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels")
MIN_SHARE = 0.00001
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """The measurements of one kind of region.

    Attributes:
        control: The tag that the regions belong to.
        megabytes: Size of the prediction as JSON.
        seconds: Time to make the prediction from the result, and its JSON.
        size_ratio: Its size over that of brush regions.
        time_ratio: Its time over that of brush regions.
    """

    control: str
    megabytes: float
    seconds: float
    size_ratio: float
    time_ratio: float


def blob(number: int) -> Mask:
    """Return a mask with a wavy outline and a hole, of another place and size for each number."""
    rng = np.random.default_rng(number)
    x, y = rng.uniform(0.2, 0.8, 2) * (WIDTH, HEIGHT)
    radius = rng.uniform(100, 500)
    reach = int(1.2 * radius)  # beyond the outline
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    rows, columns = np.mgrid[top : min(HEIGHT, int(y) + reach), left : min(WIDTH, int(x) + reach)]
    angle = np.arctan2(rows - y, columns - x)
    distance = np.hypot(rows - y, columns - x)
    outline = radius * (1 + 0.15 * np.sin(WAVES * angle + number))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    inside = (distance < outline) & (distance > radius / 4)
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return mask


def measure() -> list[Row]:
    """Measure each kind once, brush regions first."""
    result = SegmentResult(
        job_id="seg-1",
        answer=" ".join(f"[{number + 1}]" for number in range(TARGETS)),
        targets=tuple(
            TargetResult(phrase="cup", score=0.9, box=(0, 0, 1, 1), mask=to_rle(blob(number)))
            for number in range(TARGETS)
        ),
        width=WIDTH,
        height=HEIGHT,
        model_version="benchmark",
    )
    rows: list[Row] = []
    for control in CONTROLS:
        config = read_config(
            f'<View><Image name="image" value="$image"/><{control} name="mask" toName="image">'
            f'<Label value="Cup"/></{control}></View>'
        )
        started_at = time.perf_counter()
        size = len(json.dumps(build_prediction(result, config, "cups")))
        seconds = time.perf_counter() - started_at
        brush = rows[0] if rows else Row(control, size / MEGABYTE, seconds, 1, 1)
        rows.append(
            Row(
                control,
                size / MEGABYTE,
                seconds,
                size / MEGABYTE / brush.megabytes,
                seconds / brush.seconds,
            )
        )
    started_at = time.perf_counter()
    without_speckles(result, MIN_SHARE)
    seconds = time.perf_counter() - started_at
    rows.append(Row("MIN_REGION_SHARE", 0, seconds, 0, seconds / rows[0].seconds))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = parser.parse_args(arguments).json
    rows = measure()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{'control':18}{'MB':>8}{'s':>8}{'size':>8}{'time':>8}")
    for row in rows:
        print(
            f"{row.control:18}{row.megabytes:8.2f}{row.seconds:8.2f}{row.size_ratio:8.2f}{row.time_ratio:8.2f}"
        )


if __name__ == "__main__":
    main()
