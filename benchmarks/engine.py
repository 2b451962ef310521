"""The engine against the reference's loop: same weights, prompts, thread count and process.

    python -m benchmarks.engine [--model DIR] [--quick] [--json]

The reference loop is written here from its described behaviour: no key/value cache, and for every token the
tower and the whole prompt again. "Engine, one by one" is the baseline of the batch. `--quick` measures each
once and leaves the large counts out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pixellm_model import Request, Segmenter
from pixellm_model.preprocess import process_image, restore_masks
from pixellm_model.prompt import build_prompt

PHOTO = Path(__file__).parents[1] / "demo" / "samples" / "scene_table.jpg"
PROMPTS = ("the cup", "the book", "the cup and the book", "the dog", "Where is the apple?")
BATCH = 8
RUNS = 5
MANY = (1, 3, 8)


@torch.inference_mode()
def reference(segmenter: Segmenter, image: Image.Image, prompt: str) -> int:
    """One prompt the reference's way; returns how many tokens were answered."""
    model, tokenizer = segmenter.model, segmenter.tokenizer
    processed = process_image(image, model.config.image_size)
    ids = tokenizer.encode(build_prompt(model.config, tokenizer, prompt))
    answer: list[int] = []
    states = torch.empty(0)
    while not answer or answer[-1] != tokenizer.eos_id:
        features = model.encode_image([processed])
        embeds = model.embed(ids + answer, features.tokens[0])[None]
        states = model.model(
            inputs_embeds=embeds, use_cache=False, output_hidden_states=True
        ).last_hidden_state
        answer.append(int(model.lm_head(states)[0, -1].argmax()))
    features = model.encode_image([processed])
    runs, _ = tokenizer.codebook.find_runs(answer)
    if runs:
        size, first = len(tokenizer.codebook.ids), states.shape[1] - len(answer)
        at = [first + start + k for start in runs for k in range(size)]
        targets = tokenizer.codebook.fuse(model.target_embeddings(states[0, at]))
        for target in targets:  # one call a target
            low_res, _ = model.decode_targets(target[None], features.maps, torch.zeros(1, dtype=torch.long))
            restore_masks(low_res, processed.resized, processed.original, model.config.image_size)
    return len(answer)


@contextmanager
def answering(segmenter: Segmenter, targets: int) -> Iterator[None]:
    """Within it the model names `targets` targets, whatever is asked: both loops then do the same work."""
    tokenizer = segmenter.tokenizer
    said = tokenizer.encode(", ".join(["thing is " + tokenizer.codebook.text] * targets) + ".")[1:]
    script = torch.tensor([*said, tokenizer.eos_id])
    seen: dict[str, Any] = {}

    def listen(_module: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        length = kwargs["inputs_embeds"].shape[1]
        seen["positions"] = kwargs.get("position_ids", torch.arange(length)[None])

    def say(_module: torch.nn.Module, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        positions = seen["positions"][:, -logits.shape[1] :]
        first = seen.setdefault("first", int(positions[0, -1]))
        return logits.scatter(-1, script[(positions - first) % len(script), None], 1e9)

    hooks = (
        segmenter.model.model.register_forward_pre_hook(listen, with_kwargs=True),
        segmenter.model.lm_head.register_forward_hook(say),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def seconds(work: Callable[[], object], runs: int) -> float:
    """Median of `runs`."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(segmenter: Segmenter, quick: bool) -> dict[str, dict[str, float]]:
    runs = 1 if quick else RUNS
    image = Image.open(PHOTO).convert("RGB")

    def fresh(*prompts: str) -> None:
        segmenter.cache.clear()
        for prompt in prompts:
            segmenter.segment(image, prompt)

    fresh(PROMPTS[2])  # warm-up of both
    segmenter.model.encode_image([process_image(image, segmenter.model.config.image_size)])
    times, ratios = {}, {}

    def against(name: str, engine: float, baseline: float) -> None:
        times[name], times[f"{name}_baseline"] = engine, baseline
        ratios[name] = baseline / engine

    against(
        "first_prompt",
        seconds(lambda: fresh(PROMPTS[2]), max(3, runs)),
        seconds(lambda: reference(segmenter, image, PROMPTS[2]), min(runs, 3)),
    )
    against(
        "five_prompts",
        seconds(lambda: fresh(*PROMPTS), max(3, runs)),
        seconds(lambda: [reference(segmenter, image, prompt) for prompt in PROMPTS], min(runs, 2)),
    )
    for targets in MANY[:1] if quick else MANY:
        with answering(segmenter, targets):
            segmenter.warm(image)
            engine = seconds(lambda: segmenter.segment(image, "all things"), runs)
        with answering(segmenter, targets):
            against(
                f"follow_up_with_{targets}_targets",
                engine,
                seconds(lambda: reference(segmenter, image, "all things"), 1),
            )
    rng = np.random.default_rng(0)
    photos = [
        Image.fromarray(np.roll(np.asarray(image), tuple(rng.integers(1, 60, 2)), (0, 1)))
        for _ in range(BATCH)
    ]
    requests = [Request(one, PROMPTS[2]) for one in photos]

    def one_by_one() -> None:
        segmenter.cache.clear()
        for request in requests:
            segmenter.segment(request.image, request.prompt)

    def together() -> None:
        segmenter.cache.clear()
        segmenter.segment_batch(requests)

    against(f"batch_of_{BATCH}", seconds(together, runs), seconds(one_by_one, runs))
    for one in photos:
        segmenter.warm(one)
    against(
        f"batch_of_{BATCH}_warmed",
        seconds(lambda: segmenter.segment_batch(requests), runs),
        seconds(lambda: [segmenter.segment(r.image, r.prompt) for r in requests], runs),
    )
    return {"seconds": times, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped mini)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    segmenter = Segmenter.from_pretrained(arguments.model)
    found = measure(segmenter, arguments.quick)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
    if arguments.json:
        print(json.dumps({**found, "peak_mib": peak, "machine": machine, "model": segmenter.version}))
        return
    print(f"{segmenter.version}, {machine}, peak {peak:.0f} MiB")
    print(f"  {'':32} {'engine s':>9} {'baseline s':>11} {'ratio':>7}")
    for name, ratio in found["ratios"].items():
        engine, baseline = found["seconds"][name], found["seconds"][f"{name}_baseline"]
        print(f"  {name:32} {engine:9.3f} {baseline:11.3f} {ratio:7.1f}")


if __name__ == "__main__":
    main()
