"""The engine against the reference's decoding loop: same weights, prompts, thread count and process.

    python -m benchmarks.engine [--model DIR] [--quick] [--json]

The reference loop is written here from its described behaviour: no key/value cache, the tower and the whole
prompt again for every token, and all masks at the photo's size at once. The baseline of the batch is the
engine with one prompt at a time. Before each run the engine forgets the timed prompts and images; it then
answers other prompts about another image, so that it has drafts, as a worker in use has. Peak memory is the
process's, weights included. `--quick` measures each once and leaves the large ones out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
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
from pixellm_model.engine.generate import key_mask
from pixellm_model.engine.segmenter import MAX_NEW_TOKENS
from pixellm_model.preprocess import mask_scores, process_image, restore_masks
from pixellm_model.prompt import build_prompt

SAMPLES = Path(__file__).parents[1] / "demo" / "samples"
PHOTO, OTHER_PHOTO = SAMPLES / "scene_table.jpg", SAMPLES / "scene_meadow.jpg"
PROMPTS = ("the cup", "the book", "the cup and the book", "the dog", "Where is the apple?")
OTHER_PROMPTS = ("the car", "the piano", "Segment the car and the tree.", "find the bus")
BATCH = 8
RUNS = 5
MANY = (1, 3, 8)
LARGE = (4000, 3000)  # pixels


@torch.inference_mode()
def reference(segmenter: Segmenter, image: Image.Image, prompt: str) -> int:
    """Answer one prompt as the reference does; returns the number of tokens."""
    model, tokenizer = segmenter.model, segmenter.tokenizer
    processed = process_image(image, model.config.image_size)
    ids = tokenizer.encode(build_prompt(model.config, tokenizer, prompt))
    answer: list[int] = []
    states = torch.empty(0)
    while len(answer) < MAX_NEW_TOKENS and (not answer or answer[-1] != tokenizer.eos_id):
        features = model.encode_image([processed])
        known = ids + answer
        states = model.model(
            inputs_embeds=model.embed(known, features.tokens[0])[None],
            attention_mask=key_mask(known, features.token_mask[0])[None].long(),
            position_ids=torch.arange(len(known) - 1 + model.config.image_tokens)[None],
            use_cache=False,
            output_hidden_states=True,
        ).last_hidden_state
        answer.append(int(model.lm_head(states)[0, -1].argmax()))
    features = model.encode_image([processed])
    runs, _ = tokenizer.codebook.find_runs(answer)
    if runs:
        size, first = len(tokenizer.codebook.ids), states.shape[1] - len(answer)
        at = [first + start + k for start in runs for k in range(size)]
        targets = tokenizer.codebook.fuse(model.target_embeddings(states[0, at]))
        owner = torch.zeros(1, dtype=torch.long)
        sources = model.sources(features)
        low_res = [model.decode_from(target[None], sources, owner)[0] for target in targets]
        mask_scores(
            restore_masks(torch.cat(low_res), processed.resized, processed.original, model.config.image_size)
        )
    return len(answer)


@contextmanager
def answering(segmenter: Segmenter, prompt: str, targets: int) -> Iterator[None]:
    """Make the model answer `prompt` by naming `targets` targets, so that both loops do the same work."""
    model, tokenizer = segmenter.model, segmenter.tokenizer
    answer = tokenizer.encode(", ".join(["thing is " + tokenizer.codebook.text] * targets) + ".")[1:]
    script = torch.tensor([*answer, tokenizer.eos_id])
    ids = tokenizer.encode(build_prompt(model.config, tokenizer, prompt))
    first = len(ids) + model.config.image_tokens - 2  # the position that predicts the first answered token
    seen: dict[str, torch.Tensor] = {}

    def listen(_module: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        length = kwargs["inputs_embeds"].shape[1]
        seen["positions"] = kwargs.get("position_ids", torch.arange(length)[None])

    def say(_module: torch.nn.Module, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        positions = seen["positions"][:, -logits.shape[1] :]
        return logits.scatter(-1, script[(positions - first) % len(script), None], 1e9)

    hooks = (
        model.model.register_forward_pre_hook(listen, with_kwargs=True),
        model.lm_head.register_forward_hook(say),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def seconds(work: Callable[[], object], runs: int, before: Callable[[], object] | None = None) -> float:
    """Median seconds of `runs` runs, each after an untimed call of `before`."""
    taken = []
    for _ in range(runs):
        if before:
            before()
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(segmenter: Segmenter, quick: bool) -> dict[str, dict[str, float]]:
    """Time engine and baseline.

    Returns:
        "seconds" by name, the baseline's with the suffix `_baseline`, and "ratios" of baseline to engine.
    """
    runs = 1 if quick else RUNS
    image = Image.open(PHOTO).convert("RGB")
    other = Image.open(OTHER_PHOTO).convert("RGB")
    rng = np.random.default_rng(0)
    photos = [image] + [
        Image.fromarray(np.roll(np.asarray(image), tuple(rng.integers(1, 60, 2)), (0, 1)))
        for _ in range(BATCH - 1)
    ]
    requests = [Request(photo, PROMPTS[2]) for photo in photos]
    times, ratios = {}, {}

    def afresh() -> None:
        segmenter.forget()
        for prompt in OTHER_PROMPTS:
            segmenter.segment(other, prompt)

    def warmed(photos: list[Image.Image]) -> None:
        afresh()
        for photo in photos:
            segmenter.warm(photo)

    def against(name: str, engine: float, baseline: float) -> None:
        times[name], times[f"{name}_baseline"] = engine, baseline
        ratios[name] = baseline / engine

    against(
        "first_prompt",
        seconds(lambda: segmenter.segment(image, PROMPTS[2]), max(3, runs), afresh),
        seconds(lambda: reference(segmenter, image, PROMPTS[2]), min(runs, 3)),
    )
    against(
        "five_prompts",
        seconds(lambda: [segmenter.segment(image, prompt) for prompt in PROMPTS], max(3, runs), afresh),
        seconds(lambda: [reference(segmenter, image, prompt) for prompt in PROMPTS], min(runs, 2)),
    )
    for targets in MANY[:1] if quick else MANY:
        with answering(segmenter, "all things", targets):
            against(
                f"follow_up_with_{targets}_targets",
                seconds(
                    lambda: segmenter.segment(image, "all things"),
                    max(3, runs),
                    lambda: warmed([image]),
                ),
                seconds(lambda: reference(segmenter, image, "all things"), 1),
            )
    for name, before in ((f"batch_of_{BATCH}", afresh), (f"batch_of_{BATCH}_warmed", lambda: warmed(photos))):
        against(
            name,
            seconds(lambda: segmenter.segment_batch(requests), runs, before),
            seconds(lambda: [segmenter.segment(r.image, r.prompt) for r in requests], runs, before),
        )
    return {"seconds": times, "ratios": ratios}


def peak_mib(work: Callable[[], object]) -> float:
    """Peak memory of the process in MiB while it does `work` (Linux only)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    work()
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def peaks(segmenter: Segmenter, quick: bool) -> dict[str, dict[str, float]]:
    """Peak memory of both loops in MiB. The engine goes first, so the reference's leftovers do not count."""
    image = Image.open(PHOTO).convert("RGB")
    memory = {
        "2_targets": {
            "engine": peak_mib(lambda: segmenter.segment(image, PROMPTS[2])),
            "baseline": peak_mib(lambda: reference(segmenter, image, PROMPTS[2])),
        }
    }
    if not quick:
        large = image.resize(LARGE)
        with answering(segmenter, "all things", MANY[-1]):
            memory["8_targets_on_12_megapixels"] = {
                "engine": peak_mib(lambda: segmenter.segment(large, "all things")),
                "baseline": peak_mib(lambda: reference(segmenter, large, "all things")),
            }
    return memory


def main() -> None:
    """Print the table or one JSON object."""
    parser = argparse.ArgumentParser("python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped mini)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    segmenter = Segmenter.from_pretrained(arguments.model)
    segmenter.vocabulary = None  # the baseline reads prompts as they are
    memory = peaks(segmenter, arguments.quick)
    times = measure(segmenter, arguments.quick)
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
    if arguments.json:
        print(json.dumps({**times, "peak_mib": memory, "machine": machine, "model": segmenter.version}))
        return
    print(f"{segmenter.version}, {machine}")
    print(f"  {'':36} {'engine':>9} {'baseline':>9} {'ratio':>7}")
    for name, ratio in times["ratios"].items():
        engine, baseline = times["seconds"][name], times["seconds"][f"{name}_baseline"]
        print(f"  {name:36} {engine:7.3f} s {baseline:7.3f} s {ratio:7.1f}")
    for name, loops in memory.items():
        print(f"  {'peak MiB, ' + name:36} {loops['engine']:7.0f}   {loops['baseline']:7.0f}")


if __name__ == "__main__":
    main()
