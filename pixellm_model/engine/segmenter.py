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
from pixellm_model.clicks.points import Click
from pixellm_model.engine.drafts import Drafts
from pixellm_model.engine.generate import Generation, Question, encode_prefixes, generate, split_prompt
from pixellm_model.engine.int8 import to_int8
from pixellm_model.engine.phrases import name_targets
from pixellm_model.engine.prefix_cache import Prefix, PrefixCache, image_key
from pixellm_model.engine.refiner import Refiner
from pixellm_model.errors import PromptError
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage, mask_strips, process_image, restore_masks
from pixellm_model.prompt import build_prompt
from pixellm_model.request import Picture, Request
from pixellm_model.tokenizer import PromptTokenizer

MINI = Path(__file__).parents[1] / "mini"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_NEW_TOKENS = 512
CACHE_BYTES = 512 * 2**20  # of the cache a segmenter makes for itself


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
    """A loaded PixelLM. Calls from several threads are answered one after the other.

    What depends on an image alone is kept in `cache`, so that a further prompt on it costs only its own
    tokens. Segmenters may share one cache: entries are told apart by image and version.
    """

    def __init__(
        self,
        model: PixelLM,
        tokenizer: PromptTokenizer,
        version: str,
        cache: PrefixCache | None = None,
        fingerprint: str = "",
        refiner: Refiner | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.version = version
        self.fingerprint = fingerprint
        self.cache = PrefixCache(CACHE_BYTES) if cache is None else cache
        self.refiner = Refiner(model) if refiner is None else refiner
        self._prefix_ids, _ = split_prompt(tokenizer.encode(build_prompt(model.config, tokenizer, "")))
        self._drafts = Drafts(tokenizer)
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        vision_tower: str | Path | None = None,
        cache: PrefixCache | None = None,
    ) -> Segmenter:
        """Load a checkpoint folder of either layout; without `path`, the shipped pixellm-mini.

        `dtype` "auto" is bfloat16 on a GPU and float32 on a CPU; "int8" is that too, with the matrices of
        tower and language model in 8 bits. `cache` is one to share. Raises CheckpointError when the folder is
        not a usable PixelLM, ValueError for an unknown device or dtype.
        """
        folder = Path(path) if path is not None else MINI
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"Device {device!r} was asked for, but torch sees no GPU; use 'cpu' or 'auto'.")
        if dtype not in ("auto", "int8", *DTYPES):
            raise ValueError(f"Unknown dtype {dtype!r}; use one of auto, {', '.join(DTYPES)}, int8.")
        wanted = DTYPES.get(dtype, torch.float32 if device == "cpu" else torch.bfloat16)
        model, tokenizer = checkpoint.load(folder, vision_tower, device, wanted)
        fingerprint = checkpoint.fingerprint(folder)
        version = f"{Path(model.config.name).name}-{fingerprint}"
        if dtype == "int8":
            to_int8(model)
            version += "-int8"
        return cls(model, tokenizer, version, cache, fingerprint, Refiner.from_folder(model, folder))

    def with_adapter(self, folder: str | Path, name: str | None = None) -> Segmenter:
        """This model with a fine-tuned adapter, as a segmenter of its own, of version `<this>+<name>` (by
        default the folder's name). It shares this one's weights, but those of the adapter, and its cache,
        in which versions are told apart.

        Raises CheckpointError when the folder is no adapter or belongs to another base.
        """
        from pixellm_model import adapter

        model = adapter.load(self.model, self.fingerprint, Path(folder))
        version = f"{self.version}+{name or Path(folder).name}"
        return Segmenter(model, self.tokenizer, version, self.cache, self.fingerprint, self.refiner)

    def save_pretrained(self, path: str | Path, int8: bool = False) -> None:
        """Write the self-contained layout; `int8` stores tower and language model with 8-bit matrices.

        Raises ValueError when the weights in memory are rounded to 8 bits.
        """
        if self.version.endswith("-int8"):
            raise ValueError("Weights rounded to 8 bits are not saved; load them in full precision.")
        checkpoint.save(self.model, self.tokenizer, Path(path), int8=int8)

    def segment(
        self,
        image: Image.Image | Picture,
        prompt: str,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Segmentation:
        """Answer a prompt about an image.

        `history` holds earlier (prompt, answer) turns about the same image. Raises PromptError for an
        empty prompt or one too long for the model.
        """
        answered = self.segment_batch([Request(image, prompt, history)], max_new_tokens)[0]
        if isinstance(answered, PromptError):
            raise answered
        return answered

    def segment_batch(
        self, requests: Sequence[Request], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> list[Segmentation | PromptError]:
        """Answer several prompts together, on the same image or different ones, with the masks they would
        have alone. A prompt that cannot be taken has its PromptError in place of an answer.

        The `timings` of a Segmentation are those of the batch it was answered in.
        """
        answers: dict[int, Segmentation | PromptError] = {}
        asked: dict[int, tuple[list[int], int]] = {}
        for number, request in enumerate(requests):
            try:
                asked[number] = self._ids(request, max_new_tokens)
            except PromptError as error:
                answers[number] = error
        if asked:
            with self._lock, torch.inference_mode():
                found = self._answer([requests[number] for number in asked], list(asked.values()))
            answers |= zip(asked, found, strict=True)
        return [answers[number] for number in range(len(requests))]

    def refine(
        self,
        image: Image.Image | Picture,
        clicks: Sequence[Click],
        mask: np.ndarray | None = None,
        box: Sequence[float] | None = None,
    ) -> Target:
        """Correct the mask of one object, or begin one, by what an annotator points at.

        The first call on an image runs the towers, unless `warm_clicks` has; later ones only a small step.
        An image as `prepare` leaves it spares resizing the photo each time.

        Args:
            image: the photo, H x W pixels.
            clicks: all clicks on this object so far, in pixels of the photo; of several on one pixel the
                latest counts.
            mask: the current mask (H, W) bool; it changes only in connected parts that a click calls wrong.
            box: x0, y0, x1, y1 in pixels of the photo, end exclusive; the result lies within.

        Returns: the object, its phrase empty. Every positive click lies in its mask, no negative one does.

        Raises ClickError when there is neither a click nor a box, a click lies outside the photo or a
        positive one outside the box, the box holds nothing of the photo, or the mask has another size.
        """
        prepared = self._prepared(image)
        key = image_key(prepared, self.fingerprint or self.version)
        found, score = self.refiner.refine(prepared, key, clicks, mask, box)
        return Target("", found, score, mask_box(found))

    def warm_clicks(self, image: Image.Image | Picture) -> None:
        """Compute what `refine` needs of an image, for clicks to come."""
        prepared = self._prepared(image)
        self.refiner.warm(prepared, image_key(prepared, self.fingerprint or self.version))

    def logits(self, request: Request, max_new_tokens: int = MAX_NEW_TOKENS) -> list[np.ndarray]:
        """What the masks of a request's targets are thresholded from, each (H, W) float32.

        For measuring; `segment_batch` never builds them whole. Raises PromptError as `segment` does.
        """
        asked = self._ids(request, max_new_tokens)
        with self._lock, torch.inference_mode():
            image = self._prepared(request.image)
            _, _, (low_res,) = self._generated([request], [image], [asked], _Clock())
            if not len(low_res):
                return []
            whole = restore_masks(low_res, image.resized, image.original, self.model.config.image_size)
            return list(whole.cpu().numpy())

    def prepare(self, image: Image.Image) -> ProcessedImage:
        """What the model needs of an image: a few megabytes, however large the photo. May be asked about in
        its place, any number of times, without being resized again."""
        return process_image(image, self.model.config.image_size)

    def warm(self, image: Image.Image | Picture) -> None:
        """Compute what depends on the image alone, for prompts to come."""
        with self._lock, torch.inference_mode():
            self._prefixes([self._prepared(image)])

    def forget(self) -> None:
        """Drop what is kept of images and of earlier answers, in a shared cache too."""
        self.refiner.forget()
        with self._lock:
            self.cache.clear()
            self._drafts = Drafts(self.tokenizer)

    def _prepared(self, image: Image.Image | Picture) -> ProcessedImage:
        if isinstance(image, ProcessedImage):
            return image
        if not isinstance(image, Image.Image):
            raise TypeError(f"{type(image).__name__} is neither a PIL image nor one prepared by this model.")
        return self.prepare(image)

    def _ids(self, request: Request, max_new_tokens: int) -> tuple[list[int], int]:
        """The ids behind the image, and how many may be answered."""
        if not self.tokenizer.clean(request.prompt):
            raise PromptError("The prompt is empty; say what to segment.")
        prompt = build_prompt(self.model.config, self.tokenizer, request.prompt, request.history)
        ids = self.tokenizer.encode(prompt)
        room = self.model.config.llama.max_position_embeddings - len(ids) - self.model.config.image_tokens
        if room < 1:
            raise PromptError("The prompt and its history are too long for the model; shorten them.")
        return split_prompt(ids)[1], min(max_new_tokens, room)

    def _answer(
        self, requests: Sequence[Request], asked: Sequence[tuple[list[int], int]]
    ) -> list[Segmentation]:
        clock = _Clock()
        images = [self._prepared(request.image) for request in requests]
        generations, found, low_res = self._generated(requests, images, asked, clock)
        answers = []
        for request, image, generation, (runs, warnings), logits in zip(
            requests, images, generations, found, low_res, strict=True
        ):
            texts = self._texts(generation, runs)
            self._drafts.learn(request.prompt, texts, generation.ids)
            targets = [
                Target(phrase, *finish_mask(one, image, self.model.config.image_size))
                for phrase, one in zip(name_targets(texts, request.prompt), logits, strict=True)
            ]
            answers.append(Segmentation(_display(texts), tuple(targets), tuple(warnings), clock.laps))
        clock.lap("decode")
        return answers

    def _generated(
        self,
        requests: Sequence[Request],
        images: Sequence[ProcessedImage],
        asked: Sequence[tuple[list[int], int]],
        clock: _Clock,
    ) -> tuple[list[Generation], list[tuple[list[int], list[str]]], list[torch.Tensor]]:
        """Each request's answer, the codebook runs in it with what is wrong with it, and the low-resolution
        logits of its targets, (n, 4g, 4g)."""
        prefixes = self._prefixes(images)
        clock.lap("encode")
        questions = [
            Question(prefix, ids, room, self._drafts.about(request.prompt))
            for prefix, (ids, room), request in zip(prefixes, asked, requests, strict=True)
        ]
        generations = generate(self.model, questions, self.tokenizer.eos_id)
        clock.lap("generate")
        found = [self._runs(generation) for generation in generations]
        return generations, found, self._draw(generations, [runs for runs, _ in found], prefixes)

    def _prefixes(self, images: Sequence[ProcessedImage]) -> list[Prefix]:
        """What is known of each image; those not yet in the cache are encoded, each once."""
        keys = [image_key(image, self.version) for image in images]
        known = {key: found for key in dict.fromkeys(keys) if (found := self.cache.get(key)) is not None}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        # A batch of images fills a GPU; on a CPU it only leaves the caches sooner.
        groups = [list(new)] if new and self.model.device.type == "cuda" else [[key] for key in new]
        for group in groups:
            features = self.model.encode_image([new[key] for key in group])
            encoded = encode_prefixes(self.model, self._prefix_ids, features)
            for key, prefix in zip(group, encoded, strict=True):
                self.cache.put(key, prefix)
                known[key] = prefix
        return [known[key] for key in keys]

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
        self, generations: Sequence[Generation], runs: Sequence[list[int]], prefixes: Sequence[Prefix]
    ) -> list[torch.Tensor]:
        """Low-resolution logits of each question's targets, (n, 4g, 4g); all are drawn in one call."""
        counts = [len(starts) for starts in runs]
        if not sum(counts):
            return [torch.empty(0) for _ in runs]
        size = len(self.tokenizer.codebook.ids)
        states = torch.cat(
            [
                g.hidden[[s + k for s in starts for k in range(size)]]
                for g, starts in zip(generations, runs, strict=True)
            ]
        )
        targets = self.tokenizer.codebook.fuse(self.model.target_embeddings(states))
        owner = torch.repeat_interleave(torch.arange(len(runs)), torch.tensor(counts)).to(self.model.device)
        sources = [torch.stack(level) for level in zip(*(p.sources for p in prefixes), strict=True)]
        return list(self.model.decode_from(targets, sources, owner)[0].split(counts))

    def _texts(self, generation: Generation, runs: list[int]) -> list[str]:
        size, texts, at = len(self.tokenizer.codebook.ids), [], 0
        for start in [*runs, len(generation.ids)]:
            texts.append(self.tokenizer.decode(generation.ids[at:start]).strip())
            at = start + size
        return texts


def finish_mask(
    low_res: torch.Tensor, image: ProcessedImage, image_size: int
) -> tuple[np.ndarray, float, tuple[int, int, int, int]]:
    """Logits of one target (m, m) -> its mask at the photo's size, score and box."""
    mask = np.zeros(image.original, bool)
    confidence = 0.0
    for row, column, logits in mask_strips(low_res, image.resized, image.original, image_size):
        inside = logits > 0
        confidence += float(logits[inside].sigmoid().sum())
        height, width = inside.shape
        mask[row : row + height, column : column + width] = inside.cpu().numpy()
    return mask, confidence / (np.count_nonzero(mask) + 1e-6), mask_box(mask)


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
