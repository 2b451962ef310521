"""`Segmenter`, the public interface: an image and a prompt in, named masks and the model's answer out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pixellm_model import checkpoint
from pixellm_model.engine.absence import deny_undrawn
from pixellm_model.engine.answers import (
    Segmentation,
    Target,
    display_text,
    texts_between_runs,
    warnings_about,
)
from pixellm_model.engine.drafts import Drafts
from pixellm_model.engine.edges import sharpen
from pixellm_model.engine.generate import DecodeRequest, Generation, generate, prefill, split_prompt
from pixellm_model.engine.int8 import to_int8
from pixellm_model.engine.masks import finish_mask
from pixellm_model.engine.phrases import name_targets
from pixellm_model.engine.prefix_cache import Prefix, PrefixCache, image_key
from pixellm_model.errors import PromptError
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage, process_image, restore_masks
from pixellm_model.prompt import build_prompt
from pixellm_model.request import Picture, Request
from pixellm_model.tokenizer import PromptTokenizer

MINI = Path(__file__).parents[1] / "mini"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_NEW_TOKENS = 512
CACHE_BYTES = 512 * 2**20  # bound of the cache that a segmenter makes for itself


class Segmenter:
    """A loaded PixelLM. Safe to call from several threads; calls run one after the other.

    What depends on an image alone is kept in `cache`, so a further prompt on the same image costs only its
    own tokens. Segmenters may share one cache: entries are keyed by image and version.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        version: name of the weights, such as "pixellm-mini-1a2b3c4d" or "pixellm-mini-1a2b3c4d+adapter".
        cache: the cached image prefixes.
        fingerprint: the base checkpoint's fingerprint, which its adapters name.
    """

    def __init__(
        self,
        model: PixelLM,
        tokenizer: PromptTokenizer,
        version: str,
        cache: PrefixCache | None = None,
        fingerprint: str = "",
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.version = version
        self.fingerprint = fingerprint
        self.cache = PrefixCache(CACHE_BYTES) if cache is None else cache
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
        """Load a checkpoint folder of the published or the self-contained layout.

        Args:
            path: the folder; None for the shipped pixellm-mini.
            device: "cpu", "cuda", "cuda:1" ...; "auto" is a GPU if there is one.
            dtype: "float32", "bfloat16" or "float16"; "auto" is bfloat16 on a GPU and float32 on a CPU;
                "int8" is as "auto", with the matrices of tower and language model in 8 bits (needs
                bitsandbytes).
            vision_tower: folder of the CLIP tower, for a published checkpoint whose config.json names a tower
                that is not a local folder.
            cache: a cache to share with other segmenters; None makes one of CACHE_BYTES.

        Returns:
            The segmenter, ready to use.

        Raises:
            CheckpointError: the folder is not a usable PixelLM.
            ValueError: unknown dtype, no GPU for a "cuda" device, or bitsandbytes is missing.
        """
        folder = Path(path) if path is not None else MINI
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"Device {device!r} was asked for, but torch sees no GPU; use 'cpu' or 'auto'.")
        if dtype not in ("auto", "int8", *DTYPES):
            raise ValueError(f"Unknown dtype {dtype!r}; use one of auto, {', '.join(DTYPES)}, int8.")
        torch_dtype = DTYPES.get(dtype, torch.float32 if device == "cpu" else torch.bfloat16)
        model, tokenizer = checkpoint.load(folder, vision_tower, device, torch_dtype)
        fingerprint = checkpoint.fingerprint(folder)
        version = f"{Path(model.config.name).name}-{fingerprint}"
        if dtype == "int8":
            to_int8(model)
            version += "-int8"
        return cls(model, tokenizer, version, cache, fingerprint)

    @property
    def follows_up(self) -> bool:
        """Whether the model was trained on turns that refer back, as its config says (`trained_on_turns`)."""
        return bool(self.model.config.extra.get("trained_on_turns", False))

    def with_adapter(self, folder: str | Path, name: str | None = None) -> Segmenter:
        """This model with a fine-tuned adapter, as a second segmenter.

        It shares this one's cache, and all weights but the adapter's. This one is not changed.

        Args:
            folder: the adapter's folder.
            name: name in the version, which is `<this version>+<name>`; the folder's name by default.

        Returns:
            The second segmenter.

        Raises:
            CheckpointError: the folder is not an adapter, or one of another base.
        """
        from pixellm_model import adapter

        model = adapter.load(self.model, self.fingerprint, Path(folder))
        version = f"{self.version}+{name or Path(folder).name}"
        return Segmenter(model, self.tokenizer, version, self.cache, self.fingerprint)

    def save_pretrained(self, path: str | Path, int8: bool = False) -> None:
        """Write the model and its tokenizer in the self-contained layout.

        Args:
            path: the folder; created if missing.
            int8: store the matrices of tower and language model in 8 bits, the rest in float16.

        Raises:
            ValueError: the weights in memory are rounded to 8 bits (`dtype="int8"`).
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
        """Answer one prompt about an image.

        Args:
            image: a PIL image in any mode, or one that `prepare` made.
            prompt: what to segment.
            history: earlier (prompt, answer) turns about the same image, oldest first.
            max_new_tokens: limit of the answer's length in tokens.

        Returns:
            The answer with its masks, at the image's own size.

        Raises:
            PromptError: the prompt is empty, or with its history too long for the model.
            TypeError: `image` is neither.
        """
        (answer,) = self.segment_batch([Request(image, prompt, history)], max_new_tokens)
        if isinstance(answer, PromptError):
            raise answer
        return answer

    def segment_batch(
        self, requests: Sequence[Request], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> list[Segmentation | PromptError]:
        """Answer several prompts together, on one image or several.

        The answers are those of `segment`, up to rounding.

        Args:
            requests: images with prompts and histories, as `segment` takes them.
            max_new_tokens: limit of each answer's length in tokens.

        Returns:
            One entry per request, in their order: a Segmentation, or the PromptError that `segment` would
            raise.

        Raises:
            TypeError: an image is neither a PIL image nor a prepared one.
        """
        answers: dict[int, Segmentation | PromptError] = {}
        prompts: dict[int, _EncodedPrompt] = {}
        for number, request in enumerate(requests):
            try:
                prompts[number] = self._encode_prompt(request, max_new_tokens)
            except PromptError as error:
                answers[number] = error
        if prompts:
            with self._lock, torch.inference_mode():
                segmentations = self._segment([requests[number] for number in prompts], [*prompts.values()])
            answers |= zip(prompts, segmentations, strict=True)
        return [answers[number] for number in range(len(requests))]

    def logits(self, request: Request, max_new_tokens: int = MAX_NEW_TOKENS) -> list[npt.NDArray[np.float32]]:
        """The logits that a request's masks are thresholded from (at 0).

        For evaluation only: `segment_batch` never holds them whole in memory.

        Args:
            request: image, prompt and history.
            max_new_tokens: limit of the answer's length in tokens.

        Returns:
            One (H, W) array per target, at the photo's size.

        Raises:
            PromptError: as `segment`.
            TypeError: as `segment`.
        """
        prompt = self._encode_prompt(request, max_new_tokens)
        with self._lock, torch.inference_mode():
            image = self._prepared(request.image)
            _, _, (low_res,) = self._generate([request], [image], [prompt], _Stopwatch())
            if not len(low_res):
                return []
            masks = restore_masks(low_res, image.resized, image.original, self.model.config.image_size)
            return list(masks.cpu().numpy())

    def prepare(self, image: Image.Image) -> ProcessedImage:
        """Resize and normalise an image once, for any number of prompts.

        Args:
            image: a PIL image in any mode.

        Returns:
            What the model needs of it, a few megabytes however large the photo is. `segment`, `segment_batch`
            and `warm` take it in the image's place.
        """
        return process_image(image, self.model.config.image_size)

    def warm(self, image: Image.Image | Picture) -> None:
        """Compute and cache what depends on the image alone, before the first prompt.

        Args:
            image: a PIL image, or one that `prepare` made.

        Raises:
            TypeError: `image` is neither.
        """
        with self._lock, torch.inference_mode():
            self._prefixes([self._prepared(image)])

    def forget(self) -> None:
        """Empty the cache, also for segmenters that share it, and drop what was learned from answers."""
        with self._lock:
            self.cache.clear()
            self._drafts = Drafts(self.tokenizer)

    def _prepared(self, image: Image.Image | Picture) -> ProcessedImage:
        if isinstance(image, ProcessedImage):
            return image
        if not isinstance(image, Image.Image):
            raise TypeError(f"{type(image).__name__} is neither a PIL image nor one prepared by this model.")
        return self.prepare(image)

    def _encode_prompt(self, request: Request, max_new_tokens: int) -> _EncodedPrompt:
        if not self.tokenizer.clean(request.prompt):
            raise PromptError("The prompt is empty; say what to segment.")
        prompt = build_prompt(self.model.config, self.tokenizer, request.prompt, request.history)
        ids = self.tokenizer.encode(prompt)
        limit = self.model.config.llama.max_position_embeddings - len(ids) - self.model.config.image_tokens
        if limit < 1:
            raise PromptError("The prompt and its history are too long for the model; shorten them.")
        return _EncodedPrompt(split_prompt(ids)[1], min(max_new_tokens, limit))

    def _segment(self, requests: Sequence[Request], prompts: Sequence[_EncodedPrompt]) -> list[Segmentation]:
        stopwatch = _Stopwatch()
        images = [self._prepared(request.image) for request in requests]
        generations, runs, low_res = self._generate(requests, images, prompts, stopwatch)
        answers = []
        for request, image, generation, (starts, stray), logits in zip(
            requests, images, generations, runs, low_res, strict=True
        ):
            texts = texts_between_runs(generation, starts, self.tokenizer)
            self._drafts.update(request.prompt, texts, generation.ids)
            targets = [
                Target(phrase, *finish_mask(target, image, self.model.config.image_size))
                for phrase, target in zip(name_targets(texts, request.prompt), logits, strict=True)
            ]
            warnings = warnings_about(generation, stray)
            answer, is_drawn = display_text(texts), [bool(target.mask.any()) for target in targets]
            if self.model.config.pyramid_dim and not all(is_drawn):
                answer = deny_undrawn(texts, [target.phrase for target in targets], is_drawn)
                targets = [target for target, drawn in zip(targets, is_drawn, strict=True) if drawn]
            answers.append(Segmentation(answer, tuple(targets), warnings, stopwatch.laps))
        stopwatch.lap("decode")
        return answers

    def _generate(
        self,
        requests: Sequence[Request],
        images: Sequence[ProcessedImage],
        prompts: Sequence[_EncodedPrompt],
        stopwatch: _Stopwatch,
    ) -> tuple[list[Generation], list[tuple[list[int], int]], list[torch.Tensor]]:
        """Per request: its answer, `Codebook.find_runs` of it, and its targets' logits (n, 4g, 4g).

        Where the checkpoint has an `edge_radius`, the logits are twice as fine.
        """
        prefixes = self._prefixes(images)
        stopwatch.lap("encode")
        decode_requests = [
            DecodeRequest(prefix, prompt.ids, prompt.max_new_tokens, self._drafts.propose(request.prompt))
            for prefix, prompt, request in zip(prefixes, prompts, requests, strict=True)
        ]
        generations = generate(self.model, decode_requests, self.tokenizer.eos_id)
        stopwatch.lap("generate")
        runs = [self.tokenizer.codebook.find_runs(generation.ids) for generation in generations]
        low_res = self._draw(generations, [starts for starts, _ in runs], prefixes)
        if radius := self.model.config.edge_radius:
            low_res = [
                sharpen(logits, image.pixel_values, image.resized, radius) if len(logits) else logits
                for logits, image in zip(low_res, images, strict=True)
            ]
        return generations, runs, low_res

    def _prefixes(self, images: Sequence[ProcessedImage]) -> list[Prefix]:
        """The prefix of each image; those not in the cache are computed, each once."""
        keys = [image_key(image, self.version) for image in images]
        prefixes = {key: prefix for key in dict.fromkeys(keys) if (prefix := self.cache.get(key)) is not None}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in prefixes}
        # A batch fills a GPU; on a CPU it only exceeds the processor's caches.
        batches = (
            [list(missing)] if missing and self.model.device.type == "cuda" else [[key] for key in missing]
        )
        for batch in batches:
            features = self.model.encode_image([missing[key] for key in batch])
            for key, prefix in zip(batch, prefill(self.model, self._prefix_ids, features), strict=True):
                self.cache.put(key, prefix)
                prefixes[key] = prefix
        return [prefixes[key] for key in keys]

    def _draw(
        self, generations: Sequence[Generation], runs: Sequence[list[int]], prefixes: Sequence[Prefix]
    ) -> list[torch.Tensor]:
        """Low-resolution logits of each answer's targets, (n, 4g, 4g), decoded in one call."""
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


@dataclass(frozen=True)
class _EncodedPrompt:
    """The token ids after the image, and the limit of the answer's length."""

    ids: list[int]
    max_new_tokens: int


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Record the seconds since the last lap."""
        now = time.perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
