"""`python -m worker`: a segmentation worker with a PixelLM model; with `learn`, one for trainings; with
`dataset`, `versions`, `train` or `runs`, a look at what is learned."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.learning import commands
from worker.learning.process import learn
from worker.serving.model import Model
from worker.serving.process import serve
from worker.settings import WorkerSettings
from worker.startup import read_settings

COMMANDS = ("dataset", "versions", "train", "runs")


def load_pixellm(settings: WorkerSettings) -> tuple[Model, str]:
    if settings.model_dir is not None and not settings.model_dir.is_dir():
        raise NotADirectoryError(f"{settings.model_dir} (MODEL_DIR) is not a folder")
    # torch takes seconds to import, and the worker is to be seen before
    from pixellm_model import PrefixCache, Segmenter

    cache = PrefixCache(settings.prefix_cache_bytes)
    segmenter = Segmenter.from_pretrained(
        settings.model_dir, device=settings.device, dtype=settings.dtype, cache=cache
    )
    return segmenter, str(segmenter.model.device)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] and given[0] in COMMANDS:
        return commands.main(given)
    parser = argparse.ArgumentParser("python -m worker", description=__doc__)
    parser.add_argument("role", nargs="?", choices=("segment", "learn"), default="segment")
    parser.add_argument("--model", dest="model_dir", type=Path, metavar="DIR", help="MODEL_DIR")
    parser.add_argument("--device", help="DEVICE: auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", help="DTYPE: auto, float32, bfloat16, float16 or int8")
    parser.add_argument("--redis-url", help="REDIS_URL")
    flags = {name: value for name, value in vars(parser.parse_args(given)).items() if value is not None}
    role = flags.pop("role")
    settings = read_settings(WorkerSettings, **flags)
    return learn(settings) if role == "learn" else serve(settings, load_pixellm)


if __name__ == "__main__":
    sys.exit(main())
