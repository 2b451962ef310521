"""`Segmenter`, the public interface: an image and a prompt in, named masks and the model's answer out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pixellm_model import checkpoint
from pixellm_model.clicks.adjust import Adjustment
from pixellm_model.clicks.points import Click
from pixellm_model.engine.answers import (
    Segmentation,
    Target,
    target_states,
    texts_between_runs,
    warnings_about,
    with_notes,
)
from pixellm_model.engine.drafts import Drafts
from pixellm_model.engine.edges import sharpen_all
from pixellm_model.engine.generate import DecodeRequest, Generation, generate, split_prompt
from pixellm_model.engine.int8 import to_int8
from pixellm_model.engine.masks import draw_targets
from pixellm_model.engine.precision import resolve_precision
from pixellm_model.engine.prefix_cache import PrefixCache, image_key
from pixellm_model.engine.prefixes import find_prefixes
from pixellm_model.engine.prompts import EncodedPrompt, encode_prompt
from pixellm_model.engine.refiner import Refiner
from pixellm_model.engine.shown import as_one, shown_answer
from pixellm_model.engine.stopwatch import Stopwatch
from pixellm_model.engine.wording import Question, Vocabulary, Wording
from pixellm_model.errors import PromptError
from pixellm_model.masks import mask_box
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage, process_image, restore_masks
from pixellm_model.prompt import build_prompt
from pixellm_model.request import Picture, Request
from pixellm_model.samples import Mask
from pixellm_model.tokenizer import PromptTokenizer

MINI = Path(__file__).parents[1] / "mini"
MAX_NEW_TOKENS = 512
MAX_TARGETS = 50
CACHE_BYTES = 512 * 2**20  # bound of the cache that a segmenter makes for itself


class Segmenter:
    """A loaded PixelLM. Safe to call from several threads; calls run one after the other.

    What depends on an image alone is kept in `cache`, so a further prompt on the same image costs only its
    own tokens. Segmenters may share one cache: entries are keyed by image and version.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        version: Name of the weights, such as "pixellm-mini-1a2b3c4d" or "pixellm-mini-1a2b3c4d+adapter".
        cache: The cached image prefixes.
        fingerprint: The base checkpoint's fingerprint, which its adapters name.
        vocabulary: What the model was taught to name, by which prompts are reworded; None for any words.
        refiner: Answers `refine`.
        max_targets: The most targets of an answer that are drawn; 1 or more.
    """

    max_targets = MAX_TARGETS

    def __init__(
        self,
        model: PixelLM,
        tokenizer: PromptTokenizer,
        version: str,
        cache: PrefixCache | None = None,
        fingerprint: str = "",
        vocabulary: Vocabulary | None = None,
        refiner: Refiner | None = None,
    ):
        self.model, self.tokenizer, self.version = model, tokenizer, version
        self.fingerprint = fingerprint
        self.vocabulary = vocabulary
        self._undivided = vocabulary.masses if vocabulary else frozenset[str]()
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
        """Load a checkpoint folder of the published or the self-contained layout.

        Args:
            path: The folder; None for the shipped pixellm-mini.
            device: "cpu", "cuda", "cuda:1" ...; "auto" is a GPU if there is one.
            dtype: "float32", "bfloat16" or "float16"; "auto" is bfloat16 on a GPU and float32 on a CPU;
                "int8" is as "auto", with the matrices of tower and language model in 8 bits (needs
                bitsandbytes).
            vision_tower: Folder of the CLIP tower, for a published checkpoint whose config.json names a tower
                that is not a local folder.
            cache: A cache to share with other segmenters; None makes one of CACHE_BYTES.

        Returns:
            The segmenter, ready to use.

        Raises:
            CheckpointError: The folder is not a usable PixelLM.
            ValueError: Unknown dtype, no GPU for a "cuda" device, or bitsandbytes is missing.
        """
        folder = Path(path) if path is not None else MINI
        device, torch_dtype = resolve_precision(device, dtype)
        model, tokenizer = checkpoint.load(folder, vision_tower, device, torch_dtype)
        fingerprint = checkpoint.fingerprint(folder)
        version = f"{Path(model.config.name).name}-{fingerprint}"
        if dtype == "int8":
            to_int8(model)
            version += "-int8"
        vocabulary, refiner = Vocabulary.from_folder(folder), Refiner.from_folder(model, folder)
        return cls(model, tokenizer, version, cache, fingerprint, vocabulary, refiner)

    @property
    def follows_up(self) -> bool:
        """Whether the model was trained on turns that refer back, as its config says (`trained_on_turns`)."""
        return bool(self.model.config.extra.get("trained_on_turns", False))

    def with_adapter(self, folder: str | Path, name: str | None = None) -> Segmenter:
        """This model with a fine-tuned adapter, as a second segmenter.

        It shares this one's cache, and all weights but the adapter's. This one is not changed.

        Args:
            folder: The adapter's folder.
            name: Name in the version, which is `<this version>+<name>`; the folder's name by default.

        Returns:
            The second segmenter.

        Raises:
            CheckpointError: The folder is not an adapter, or one of another base.
        """
        from pixellm_model import adapter

        model = adapter.load(self.model, self.fingerprint, Path(folder))
        version = f"{self.version}+{name or Path(folder).name}"
        adapted = Segmenter(
            model, self.tokenizer, version, self.cache, self.fingerprint, self.vocabulary, self.refiner
        )
        adapted.max_targets = self.max_targets
        return adapted

    def save_pretrained(self, path: str | Path, int8: bool = False) -> None:
        """Write the model and its tokenizer in the self-contained layout.

        Args:
            path: The folder; created if missing.
            int8: Store the matrices of tower and language model in 8 bits, the rest in float16.

        Raises:
            ValueError: The weights in memory are rounded to 8 bits (`dtype="int8"`).
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
            image: A PIL image in any mode, or one that `prepare` made.
            prompt: What to segment.
            history: Earlier (prompt, answer) turns about the same image, oldest first.
            max_new_tokens: Limit of the answer's length in tokens.

        Returns:
            The answer with its masks, at the image's own size.

        Raises:
            PromptError: The prompt is empty, or with its history too long for the model.
            TypeError: `image` is neither.
        """
        (answer,) = self.segment_batch([Request(image, prompt, history)], max_new_tokens)
        if isinstance(answer, PromptError):
            raise answer
        return answer

    def segment_batch(
        self, requests: Sequence[Request], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> list[Segmentation | PromptError]:
        """Answer several prompts together, on one image or several, as `segment` would up to rounding.

        Args:
            requests: Images with prompts and histories, as `segment` takes them.
            max_new_tokens: Limit of each answer's length in tokens.

        Returns:
            One entry per request, in their order: a Segmentation, or the PromptError that `segment` would
            raise.

        Raises:
            TypeError: An image is neither a PIL image nor a prepared one.
        """
        wordings = [self._reword(request.prompt) for request in requests]
        known = [wording.questions_of(request) for request, wording in zip(requests, wordings, strict=True)]
        answers = iter(self._answer([question for asked in known for question in asked], max_new_tokens))
        return [
            with_notes(as_one([next(answers) for _ in asked], self.max_targets), wording)
            for asked, wording in zip(known, wordings, strict=True)
        ]

    def refine(
        self,
        image: Image.Image | Picture,
        clicks: Sequence[Click],
        mask: Mask | None = None,
        box: Sequence[float] | None = None,
        adjust: Adjustment | None = None,
    ) -> Target:
        """Correct the mask of one object, or begin one, from clicks or a box.

        The first call on an image runs the towers, unless `warm_clicks` has.

        Args:
            image: A PIL image, or one that `prepare` made.
            clicks: All clicks on this object so far, in pixels of the photo; of several on one pixel the
                latest counts.
            mask: The current mask, (H, W) bool; it changes only in connected parts that a click calls wrong.
            box: Edges x0, y0, x1, y1 in pixels of the photo, end exclusive; the result lies within.
            adjust: Change `mask` without clicks and box, as `Refiner.adjust` does.

        Returns:
            The object, its phrase empty. Every positive click lies in its mask, no negative one does.

        Raises:
            ClickError: There is neither a click nor a box, a click lies outside the photo, a positive one
                outside the box, or the mask has another size.
        """
        prepared = self._prepared(image)
        key = image_key(prepared, self.fingerprint or self.version)
        if adjust is None:
            refined, score = self.refiner.refine(prepared, key, clicks, mask, box)
        else:
            refined, score = self.refiner.adjust(prepared, key, mask, adjust)
        return Target("", refined, score, mask_box(refined))

    def warm_clicks(self, image: Image.Image | Picture) -> None:
        """Compute and cache what `refine` needs of an image, before the first click.

        Args:
            image: A PIL image, or one that `prepare` made.

        Raises:
            TypeError: `image` is neither.
        """
        prepared = self._prepared(image)
        self.refiner.warm(prepared, image_key(prepared, self.fingerprint or self.version))

    def logits(self, request: Request, max_new_tokens: int = MAX_NEW_TOKENS) -> list[npt.NDArray[np.float32]]:
        """The logits that a request's masks are thresholded from (at 0).

        For evaluation only: of the prompt as typed, and whole in memory, as `segment_batch` never has them.

        Args:
            request: Image, prompt and history.
            max_new_tokens: Limit of the answer's length in tokens.

        Returns:
            One (H, W) array per target, at the photo's size.

        Raises:
            PromptError: As `segment`.
            TypeError: As `segment`.
        """
        prompt = encode_prompt(self.model, self.tokenizer, request, max_new_tokens)
        with self._lock, torch.inference_mode():
            image = self._prepared(request.image)
            _, _, (low_res,) = self._generate([request], [image], [prompt], Stopwatch())
            if not len(low_res):
                return []
            masks = restore_masks(low_res, image.resized, image.original, self.model.config.image_size)
            return list(masks.cpu().numpy())

    def prepare(self, image: Image.Image) -> ProcessedImage:
        """Resize and normalise an image once, for any number of prompts.

        Args:
            image: A PIL image in any mode.

        Returns:
            What the model needs of it, a few megabytes however large the photo is. `segment`, `segment_batch`
            and `warm` take it in the image's place.
        """
        return process_image(image, self.model.config.image_size)

    def warm(self, image: Image.Image | Picture) -> None:
        """Compute and cache what depends on the image alone, before the first prompt.

        Args:
            image: A PIL image, or one that `prepare` made.

        Raises:
            TypeError: `image` is neither.
        """
        with self._lock, torch.inference_mode():
            find_prefixes(self.model, self.cache, self._prefix_ids, [self._prepared(image)], self.version)

    def forget(self) -> None:
        """Empty the cache, also for segmenters that share it, and drop what was learned from answers."""
        self.refiner.forget()
        with self._lock:
            self.cache.clear()
            self._drafts = Drafts(self.tokenizer)

    def _reword(self, prompt: str) -> Wording:
        # An adapter was taught the names of its own project.
        report = "+" not in self.version
        return Wording(prompt) if self.vocabulary is None else self.vocabulary.reword(prompt, report)

    def _prepared(self, image: Image.Image | Picture) -> ProcessedImage:
        if isinstance(image, ProcessedImage):
            return image
        if not isinstance(image, Image.Image):
            raise TypeError(f"{type(image).__name__} is neither a PIL image nor one prepared by this model.")
        return self.prepare(image)

    def _answer(self, requests: Sequence[Question], max_new_tokens: int) -> list[Segmentation | PromptError]:
        answers: dict[int, Segmentation | PromptError] = {}
        prompts: dict[int, EncodedPrompt] = {}
        for number, request in enumerate(requests):
            try:
                prompts[number] = encode_prompt(self.model, self.tokenizer, request, max_new_tokens)
            except PromptError as error:
                answers[number] = error
        if prompts:
            with self._lock, torch.inference_mode():
                segmentations = self._segment([requests[number] for number in prompts], [*prompts.values()])
            answers |= zip(prompts, segmentations, strict=True)
        return [answers[number] for number in range(len(requests))]

    def _segment(self, requests: Sequence[Question], prompts: Sequence[EncodedPrompt]) -> list[Segmentation]:
        stopwatch, config = Stopwatch(), self.model.config
        images = [self._prepared(request.image) for request in requests]
        generations, runs, low_res = self._generate(requests, images, prompts, stopwatch)
        answers = []
        for request, image, generation, (starts, stray), logits in zip(
            requests, images, generations, runs, low_res, strict=True
        ):
            texts = texts_between_runs(generation, starts, self.tokenizer)
            self._drafts.update(request.prompt, texts, generation.ids)
            answer, targets, notes = shown_answer(
                texts, request.prompt, logits, image, config, self.max_targets, request.asked, self._undivided
            )
            warnings = (*warnings_about(generation, stray), *notes)
            answers.append(Segmentation(answer, tuple(targets), warnings, stopwatch.laps))
        stopwatch.lap("decode")
        return answers

    def _generate(
        self,
        requests: Sequence[Request],
        images: Sequence[ProcessedImage],
        prompts: Sequence[EncodedPrompt],
        stopwatch: Stopwatch,
    ) -> tuple[list[Generation], list[tuple[list[int], int]], list[torch.Tensor]]:
        """Per request: its answer, `Codebook.find_runs` of it, and its targets' logits (n, m, m)."""
        prefixes = find_prefixes(self.model, self.cache, self._prefix_ids, images, self.version)
        stopwatch.lap("encode")
        decode_requests = [
            DecodeRequest(prefix, prompt.ids, prompt.max_new_tokens, self._drafts.propose(request.prompt))
            for prefix, prompt, request in zip(prefixes, prompts, requests, strict=True)
        ]
        generations = generate(self.model, decode_requests, self.tokenizer.eos_id)
        stopwatch.lap("generate")
        runs = [self.tokenizer.codebook.find_runs(generation.ids) for generation in generations]
        states = [
            target_states(generation, starts, self.tokenizer)
            for generation, (starts, _) in zip(generations, runs, strict=True)
        ]
        low_res = draw_targets(self.model, self.tokenizer.codebook, states, prefixes)
        return generations, runs, sharpen_all(low_res, images, self.model.config.edge_radius)
