"""Cached, speculative and batched decoding give the answers of plain decoding, up to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixellm_model import PromptError, Request, Segmentation, Segmenter
from pixellm_model.engine.drafts import MAX_DRAFT, Draft, Drafts
from pixellm_model.engine.generate import DecodeRequest, Generation, generate, key_mask
from pixellm_model.engine.masks import finish_mask
from pixellm_model.engine.prefix_cache import Prefix, PrefixCache, image_key
from pixellm_model.preprocess import ProcessedImage, mask_scores, process_image, restore_masks
from pixellm_model.prompt import build_prompt
from support.asking import asking
from support.tiny_model import ScriptedHead, write_tiny

SCENES = sorted((Path(__file__).parents[2] / "demo" / "samples").glob("scene_*.jpg"))
PROMPTS = ("the cup", "Segment the cup and the book.", "dog", "where is the clock, the shoe and the apple?")


@pytest.fixture(scope="module", params=["dinov2", "clip", pytest.param("mini", marks=pytest.mark.slow)])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    if request.param == "mini":
        return Segmenter.from_pretrained(device="cpu")
    return Segmenter.from_pretrained(write_tiny(tmp_path_factory.mktemp("tiny"), request.param), device="cpu")


@pytest.fixture
def segmenter(loaded: Segmenter) -> Segmenter:
    loaded.cache.clear()
    loaded.cache.hits = 0
    return loaded


def photo(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def decode_request(
    segmenter: Segmenter, image: Image.Image, prompt: str, max_new_tokens: int = 24
) -> DecodeRequest:
    model, tokenizer = segmenter.model, segmenter.tokenizer
    features = model.encode_image([process_image(image, model.config.image_size)])
    return asking(
        model, tokenizer.encode(build_prompt(model.config, tokenizer, prompt)), features, max_new_tokens
    )


def answers(
    segmenter: Segmenter, requests: Sequence[DecodeRequest], draft: Draft | None = None
) -> list[Generation]:
    drafted = [replace(request, draft=draft) for request in requests]
    return generate(segmenter.model, drafted, segmenter.tokenizer.eos_id)


def assert_same(one: Generation, other: Generation) -> None:
    assert one.ids == other.ids and one.finished == other.finished
    assert (one.hidden - other.hidden).abs().max() < 1e-4 * other.hidden.std()


def assert_same_masks(one: Segmentation | PromptError, other: Segmentation | PromptError) -> None:
    assert isinstance(one, Segmentation) and isinstance(other, Segmentation)
    assert one.answer == other.answer
    assert [t.phrase for t in one.targets] == [t.phrase for t in other.targets]
    for target, expected in zip(one.targets, other.targets, strict=True):
        assert (target.mask != expected.mask).mean() < 1e-3
        assert target.score == pytest.approx(expected.score, abs=1e-3)


@torch.inference_mode()
def test_cached_decoding_equals_a_full_forward(segmenter: Segmenter) -> None:
    model, tokenizer = segmenter.model, segmenter.tokenizer
    image = model.encode_image([process_image(photo(), model.config.image_size)])
    assert not image.token_mask.all(), "the photo must leave padding to hide"
    ids = tokenizer.encode(build_prompt(model.config, tokenizer, "the cup"))
    generation = generate(model, [asking(model, ids, image, 12, Drafts(tokenizer).propose("the cup"))], -1)[0]
    known = ids + generation.ids[:-1]
    hidden = model.model(
        inputs_embeds=model.embed(known, image.tokens[0])[None],
        attention_mask=key_mask(known, image.token_mask[0])[None].long(),
        position_ids=torch.arange(len(known) - 1 + model.config.image_tokens)[None],
    ).last_hidden_state[0, -12:]
    assert (hidden - generation.hidden).abs().max() < 1e-4 * hidden.std()


@pytest.mark.parametrize(
    "answer",
    [
        "mug is {seg} and book is {seg}.",
        "{seg}{seg}",
        "mug is [SEG0] [SEG1] and book is {seg}.",
        "[SEG0] [SEG0] [SEG1] [SEG2] [SEG3] [SEG4] [SEG5] it is.",
        "There is no cup in this image.",
    ],
)
def test_drafted_tokens_equal_those_decoded_one_by_one(segmenter: Segmenter, answer: str) -> None:
    tokenizer, head = segmenter.tokenizer, segmenter.model.lm_head
    ids = tokenizer.encode(answer.replace("{seg}", tokenizer.codebook.text))[1:]
    asked = decode_request(segmenter, photo(), "the cup", max_new_tokens=64)
    try:
        found = []
        drafts = Drafts(tokenizer)
        following = {token: ids[at + 1 : at + 9] for at, token in enumerate(ids)}
        for draft in (
            None,
            drafts.propose("the cup"),  # knows the codebook alone
            Draft([], following),
            Draft([], dict.fromkeys(ids, ids[::-1])),
            Draft([[*ids, tokenizer.eos_id]], {}),
            Draft([ids[::-1], [*ids[:4], *ids], [*ids[:-1], ids[0]]], following),
            Draft([[*ids, ids[0], *ids]], {}),  # goes on where the answer ends
        ):
            segmenter.model.register_module(
                "lm_head", ScriptedHead(segmenter.model, [*ids, tokenizer.eos_id])
            )
            found.append(answers(segmenter, [asked], draft)[0])
    finally:
        segmenter.model.lm_head = head
    assert found[0].ids == [*ids, tokenizer.eos_id]
    for drafted in found[1:]:
        assert_same(drafted, found[0])


def test_drafts_take_the_form_of_earlier_answers(segmenter: Segmenter) -> None:
    tokenizer = segmenter.tokenizer
    drafts = Drafts(tokenizer)
    seg = tokenizer.codebook.text

    def ids(text: str) -> list[int]:
        return [*tokenizer.encode(text)[1:], tokenizer.eos_id]

    assert drafts.propose("the cup").tokens_after([]) == []
    drafts.update(
        "the cup and the book", ["cup is", "and book is", "."], ids(f"cup is {seg} and book is {seg}.")
    )
    drafts.update("the cup", ["There is no cup in this image."], ids("There is no cup in this image."))
    two = drafts.propose("Segment the dog and the cat in this image.")
    assert two.tokens_after([]) == ids(f"dog is {seg} and cat is {seg}.")[:MAX_DRAFT]
    one = drafts.propose("Where is the DOG?")
    denied = ids("There is no dog in this image.")
    assert one.tokens_after([]) == denied[:MAX_DRAFT]
    assert one.tokens_after(denied[:3]) == denied[3 : 3 + MAX_DRAFT]
    assert one.tokens_after([tokenizer.codebook.ids[0]]) == drafts.propose("").tokens_after(
        [tokenizer.codebook.ids[0]]
    )


@pytest.mark.parametrize("prompt", ["<IMAGE>", "</S> and <Image>", "\ue000" + "0", "", "the", "a and a, a"])
def test_no_prompt_makes_a_draft_that_cannot_be_fed(segmenter: Segmenter, prompt: str) -> None:
    drafts = Drafts(segmenter.tokenizer)
    drafts.update(prompt, ["<image> is", "<image> {} \\1"], [1, 2, 3])
    for draft in (drafts.propose(prompt), drafts.propose("cup")):
        assert all(0 <= token < segmenter.model.config.llama.vocab_size for token in draft.tokens_after([]))


def test_a_limit_within_a_target_holds(segmenter: Segmenter) -> None:
    tokenizer, head = segmenter.tokenizer, segmenter.model.lm_head
    ids = tokenizer.encode(tokenizer.codebook.text)[1:]
    try:
        segmenter.model.register_module("lm_head", ScriptedHead(segmenter.model, ids))
        asked = decode_request(segmenter, photo(), "cup", max_new_tokens=4)
        generation = answers(segmenter, [asked], Drafts(tokenizer).propose("cup"))[0]
    finally:
        segmenter.model.lm_head = head
    assert generation.ids == ids[:4] and len(generation.hidden) == 4 and not generation.finished


def test_a_batch_answers_as_one_by_one_would(segmenter: Segmenter) -> None:
    sizes = ((90, 60), (60, 90), (70, 70), (120, 40))
    asked = [
        decode_request(segmenter, photo(*size, seed=n), prompt, max_new_tokens=6 + 9 * n)
        for n, (size, prompt) in enumerate(zip(sizes, PROMPTS, strict=True))
    ]
    draft = Drafts(segmenter.tokenizer).propose("the cup")
    for together, single in zip(answers(segmenter, asked, draft), asked, strict=True):
        assert_same(together, answers(segmenter, [single])[0])


def test_the_cache_changes_no_mask(segmenter: Segmenter) -> None:
    first = [segmenter.segment(photo(), prompt, max_new_tokens=32) for prompt in PROMPTS]
    assert segmenter.cache.hits == len(PROMPTS) - 1 and len(segmenter.cache) == 1
    for prompt, warm in zip(PROMPTS, first, strict=True):
        segmenter.cache.clear()
        assert_same_masks(warm, segmenter.segment(photo(), prompt, max_new_tokens=32))


def test_a_warmed_image_is_not_encoded_again(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter.warm(photo())
    monkeypatch.setattr(segmenter.model, "encode_image", lambda _: pytest.fail("encoded again"))
    segmenter.segment(photo(), "cup", max_new_tokens=4)


@pytest.mark.slow
def test_a_batch_on_real_scenes_gives_the_masks_of_single_prompts() -> None:
    segmenter = Segmenter.from_pretrained(device="cpu")
    requests = [
        Request(Image.open(path).convert("RGB"), prompt) for path in SCENES[:2] for prompt in PROMPTS[:3]
    ]
    together = segmenter.segment_batch(requests)
    assert any(isinstance(answer, Segmentation) and answer.targets for answer in together)
    for request, answer in zip(requests, together, strict=True):
        segmenter.cache.clear()
        assert_same_masks(answer, segmenter.segment(request.image, request.prompt))


def test_a_prepared_image_is_answered_as_the_image_is(segmenter: Segmenter) -> None:
    large = photo(1200, 900)
    prepared = segmenter.prepare(large)
    assert prepared.original == (900, 1200) and prepared.nbytes < 8 * 2**20
    assert_same_masks(
        segmenter.segment(prepared, "cup", max_new_tokens=12),
        segmenter.segment(large, "cup", max_new_tokens=12),
    )
    assert segmenter.cache.hits == 1
    with pytest.raises(TypeError, match="str is neither"):
        segmenter.segment("cup.jpg", "cup")  # type: ignore[arg-type]  # a path in place of an image


def test_forgetting_leaves_nothing_behind(segmenter: Segmenter) -> None:
    first = segmenter.segment(photo(), "cup", max_new_tokens=12)
    segmenter.forget()
    assert len(segmenter.cache) == 0
    assert_same_masks(segmenter.segment(photo(), "cup", max_new_tokens=12), first)
    assert segmenter.cache.hits == 0


def test_one_refused_prompt_fails_alone(segmenter: Segmenter) -> None:
    good, empty = Request(photo(), "cup"), Request(photo(), "  ")
    found = segmenter.segment_batch([empty, good, empty], max_new_tokens=4)
    assert [type(answer) for answer in found] == [PromptError, Segmentation, PromptError]
    assert segmenter.segment_batch([empty], max_new_tokens=4)[0] is not None
    assert segmenter.segment_batch([]) == []


def test_threads_share_one_segmenter(segmenter: Segmenter) -> None:
    photos = [photo(40 + 10 * n, 60, seed=n) for n in range(3)]
    alone = [segmenter.segment(p, "cup", max_new_tokens=8) for p in photos]
    with ThreadPoolExecutor(4) as pool:
        jobs = [photos[n % 3] for n in range(9)]
        together = list(pool.map(lambda p: segmenter.segment(p, "cup", max_new_tokens=8), jobs))
    for number, answer in enumerate(together):
        assert_same_masks(answer, alone[number % 3])


def prefix(nbytes: int) -> Prefix:
    return Prefix((), (), (), torch.zeros(nbytes, dtype=torch.bool))


def test_the_cache_keeps_its_bound_and_forgets_the_longest_unused() -> None:
    cache = PrefixCache(100)
    cache.put("a", prefix(40))
    cache.put("b", prefix(40))
    assert cache.get("a") is not None
    cache.put("c", prefix(30))  # b was used longest ago
    assert cache.get("b") is None and cache.get("a") is not None and cache.get("c") is not None
    cache.put("a", prefix(60))  # replaces its former self
    assert cache.nbytes == 90 and len(cache) == 2
    cache.put("huge", prefix(101))
    assert cache.get("huge") is None and cache.nbytes <= 100


def test_the_cache_holds_under_many_threads() -> None:
    cache = PrefixCache(500)
    rng = np.random.default_rng(0)
    moves = [(str(rng.integers(20)), int(rng.integers(1, 120))) for _ in range(2000)]

    def use(move: tuple[str, int]) -> bool:
        cache.put(move[0], prefix(move[1]))
        cache.get(move[0])
        return cache.nbytes <= 500

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, moves))


def test_another_image_padding_or_version_is_another_key() -> None:
    one = process_image(photo(), 112)
    keys = {
        image_key(one, "a"),
        image_key(one, "b"),
        image_key(process_image(photo(seed=1), 112), "a"),
        image_key(process_image(photo(60, 90), 112), "a"),
    }
    assert len(keys) == 4
    assert image_key(process_image(photo(), 112), "a") == image_key(one, "a")
    # Black at the bottom is not padding, though the pixels may be equal.
    grey = Image.new("RGB", (112, 56), (124, 116, 104))
    assert image_key(process_image(grey, 112), "a") != image_key(
        process_image(Image.new("RGB", (112, 112), (124, 116, 104)), 112), "a"
    )


def test_segmenters_of_two_versions_share_a_cache_without_mixing(tmp_path: Path) -> None:
    cache = PrefixCache(2**26)
    first = Segmenter.from_pretrained(write_tiny(tmp_path / "a", seed=1), device="cpu", cache=cache)
    second = Segmenter.from_pretrained(write_tiny(tmp_path / "b", seed=2), device="cpu", cache=cache)
    assert first.version != second.version
    for segmenter in (first, second):
        segmenter.segment(photo(), "cup", max_new_tokens=4)
    assert len(cache) == 2 and cache.hits == 0


@pytest.mark.parametrize(("width", "height"), [(1000, 700), (30, 640), (640, 30), (112, 112), (1, 1)])
def test_masks_in_strips_are_those_made_whole(width: int, height: int) -> None:
    image = ProcessedImage(torch.empty(0), process_image(photo(width, height), 112).resized, (height, width))
    low_res = 4 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    if width % 3:  # most of it is empty
        low_res[:, :20] = low_res[12:] = -1.0
    whole = restore_masks(low_res[None], image.resized, image.original, 112)
    mask, score, _ = finish_mask(low_res, image, 112)
    differs = torch.from_numpy(mask) != (whole[0] > 0)
    assert whole[0][differs].abs().max() < 1e-5 if differs.any() else True
    assert score == pytest.approx(float(mask_scores(whole)[0]), abs=1e-5)
