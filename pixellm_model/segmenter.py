"""The facade: an image and a sentence in, named masks and the model's answer out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pixellm_model import checkpoint
from pixellm_model.errors import PromptError
from pixellm_model.generate import Generation, generate
from pixellm_model.model import ImageFeatures, PixelLM
from pixellm_model.phrases import name_targets
from pixellm_model.preprocess import ProcessedImage, mask_scores, process_image, restore_masks
from pixellm_model.prompt import build_prompt
from pixellm_model.tokenizer import PromptTokenizer

MINI = Path(__file__).parent / "mini"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class Target:
    """One target: the `phrase` that named it, `mask` (H, W) bool, `score` in 0..1 (mean confidence inside
    the mask) and `box` as x0, y0, x1, y1 in pixels, end exclusive (all 0 for an empty mask)."""

    phrase: str
    mask: np.ndarray
    score: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Segmentation:
    """`answer` is the model's text with `[1]`, `[2]` where target 1, 2 was named. `warnings` say what was
    wrong with the answer; `timings` are seconds per stage."""

    answer: str
    targets: tuple[Target, ...]
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


class Segmenter:
    """A loaded PixelLM. Calls from several threads are answered one after the other."""

    def __init__(self, model: PixelLM, tokenizer: PromptTokenizer, version: str):
        self.model = model
        self.tokenizer = tokenizer
        self.version = version
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        vision_tower: str | Path | None = None,
    ) -> Segmenter:
        """Load a checkpoint folder of either layout; without `path`, the shipped pixellm-mini.

        `dtype` "auto" is bfloat16 on a GPU and float32 on a CPU. Raises CheckpointError when the folder
        is not a usable PixelLM, ValueError for an unknown device or dtype.
        """
        folder = Path(path) if path is not None else MINI
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"Device {device!r} was asked for, but torch sees no GPU; use 'cpu' or 'auto'.")
        if dtype != "auto" and dtype not in DTYPES:
            raise ValueError(f"Unknown dtype {dtype!r}; use one of auto, {', '.join(DTYPES)}.")
        wanted = DTYPES.get(dtype, torch.float32 if device == "cpu" else torch.bfloat16)
        model, tokenizer = checkpoint.load(folder, vision_tower, device, wanted)
        return cls(model, tokenizer, f"{Path(model.config.name).name}-{checkpoint.fingerprint(folder)}")

    def save_pretrained(self, path: str | Path, int8: bool = False) -> None:
        """Write the self-contained layout; `int8` stores tower and language model with 8-bit matrices."""
        checkpoint.save(self.model, self.tokenizer, Path(path), int8=int8)

    def segment(
        self,
        image: Image.Image,
        prompt: str,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Segmentation:
        """Answer a prompt about an image.

        `history` holds earlier (prompt, answer) turns about the same image. Raises PromptError for an
        empty prompt or one too long for the model.
        """
        if not self.tokenizer.clean(prompt):
            raise PromptError("The prompt is empty; say what to segment.")
        clock = _Clock()
        ids = self.tokenizer.encode(build_prompt(self.model.config, self.tokenizer, prompt, history))
        room = self.model.config.llama.max_position_embeddings - len(ids) - self.model.config.image_tokens
        if room < 1:
            raise PromptError("The prompt and its history are too long for the model; shorten them.")
        with self._lock, torch.inference_mode():
            processed = process_image(image, self.model.config.image_size)
            features = self.model.encode_image([processed])
            clock.lap("encode")
            generation = generate(self.model, ids, features, min(max_new_tokens, room), self.tokenizer.eos_id)
            clock.lap("generate")
            runs, warnings = self._runs(generation)
            masks, scores = self._draw(generation, runs, features, processed)
            clock.lap("decode")
        texts = self._texts(generation, runs)
        phrases = name_targets(texts, prompt)
        targets = tuple(
            Target(phrase, mask, score, mask_box(mask))
            for phrase, mask, score in zip(phrases, masks, scores, strict=True)
        )
        return Segmentation(_display(texts), targets, tuple(warnings), clock.laps)

    def _runs(self, generation: Generation) -> tuple[list[int], list[str]]:
        runs, loose = self.tokenizer.codebook.find_runs(generation.ids)
        warnings = []
        if loose:
            warnings.append(
                f"The model left a target unfinished ({loose} stray codebook tokens); it is not shown."
            )
        if not generation.finished:
            warnings.append("The answer was cut off at its length limit; ask for fewer things at a time.")
        return runs, warnings

    def _draw(
        self, generation: Generation, runs: list[int], features: ImageFeatures, image: ProcessedImage
    ) -> tuple[list[np.ndarray], list[float]]:
        """Masks (H, W) bool and scores of the targets at `runs`."""
        if not runs:
            return [], []
        size = len(self.tokenizer.codebook.ids)
        at = [start + k for start in runs for k in range(size)]
        targets = self.tokenizer.codebook.fuse(self.model.target_embeddings(generation.hidden[at]))
        owner = torch.zeros(len(runs), dtype=torch.long, device=self.model.device)
        low_res, _ = self.model.decode_targets(targets, features.maps, owner)
        masks, scores = [], []
        for logits in low_res:  # one at a time: a 12-megapixel photo's logits are 48 MB a target
            full = restore_masks(logits[None], image.resized, image.original, self.model.config.image_size)
            scores.append(float(mask_scores(full)[0]))
            masks.append((full[0] > 0).cpu().numpy())
        return masks, scores

    def _texts(self, generation: Generation, runs: list[int]) -> list[str]:
        size, texts, at = len(self.tokenizer.codebook.ids), [], 0
        for start in [*runs, len(generation.ids)]:
            texts.append(self.tokenizer.decode(generation.ids[at:start]).strip())
            at = start + size
        return texts


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Box of a (H, W) bool mask as x0, y0, x1, y1, end exclusive; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _display(texts: list[str]) -> str:
    """The texts between targets joined by `[1]`, `[2]`, ..., without a space before punctuation."""
    answer = texts[0]
    for number, text in enumerate(texts[1:], 1):
        space = "" if text[:1] in {",", ".", ";", ":", "!", "?"} else " "
        answer += f" [{number}]{space}{text}"
    return answer.strip()


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
