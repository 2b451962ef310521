"""From Enter to masks with the shipped mini: a first prompt on a photo, then follow-ups on the same photo.

    python -m benchmarks.prompt [--json]

Backend, Redis and worker run as in production; the photo travels inside the request. The baseline is the same
model called in this process.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import time
from pathlib import Path

import httpx
import torch
from PIL import Image

from benchmarks.queue import CONFIG, services
from pixellm_model import Segmenter

PHOTO = Path(__file__).parents[1] / "demo" / "samples" / "coffee.jpg"
FIRST = "the cup and the spoon"
FOLLOW_UPS = ("the cup", "the spoon", "the plate", "something you can drink from", "the cat")


def ask(client: httpx.Client, image: str, prompt: str) -> float:
    """Seconds until the answer with its masks has arrived."""
    text = {"from_name": "prompt", "type": "textarea", "value": {"text": [prompt]}}
    task = {"id": 1, "data": {"image": image}}
    body = {"tasks": [task], "label_config": CONFIG, "params": {"context": {"result": [text]}}}
    start = time.perf_counter()
    (prediction,) = client.post("/predict", json=body).raise_for_status().json()["results"]
    seconds = time.perf_counter() - start
    if "model_version" not in prediction:
        raise RuntimeError(f"no answer of the model: {prediction}")
    return seconds


def peak_mib(pid: int) -> float:
    """Peak resident memory of a process in MiB (Linux only)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell the peak memory")


def measure() -> dict[str, float]:
    """Latencies in seconds, their ratio, and peak memory in MiB."""
    image = "data:image/jpeg;base64," + base64.b64encode(PHOTO.read_bytes()).decode()
    with services(("-m", "worker")) as running, httpx.Client(base_url=running.url, timeout=120) as client:
        first = ask(client, image, FIRST)
        follow_up = statistics.median(ask(client, image, prompt) for prompt in FOLLOW_UPS)
        memory = peak_mib(running.worker)
    segmenter = Segmenter.from_pretrained()
    photo = Image.open(PHOTO)
    segmenter.segment(photo, FIRST)
    alone = []
    for prompt in FOLLOW_UPS:
        start = time.perf_counter()
        segmenter.segment(photo, prompt)
        alone.append(time.perf_counter() - start)
    baseline = statistics.median(alone)
    return {
        "first_prompt_s": first,
        "follow_up_s": follow_up,
        "model_alone_s": baseline,
        "ratio_to_model_alone": follow_up / baseline,
        "worker_peak_mib": memory,
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser("python -m benchmarks.prompt", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    row = measure()
    if arguments.json:
        print(json.dumps({**row, "machine": f"{os.cpu_count()} cores, torch {torch.__version__}"}))
        return
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {PHOTO.name}")
    for name, value in row.items():
        print(f"  {name:22} {value:8.2f}")


if __name__ == "__main__":
    main()
