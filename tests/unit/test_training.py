"""Training on packed samples, on the tiny model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixellm_model import checkpoint
from pixellm_model.engine.prompts import encode_prompt
from pixellm_model.learning.losses import mask_bce, mask_dice
from pixellm_model.learning.packing import PackedImage, branch_off, pack
from pixellm_model.learning.training import Losses, answer_states, forward_losses
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage
from pixellm_model.request import Request
from pixellm_model.samples import Question, Sample
from pixellm_model.tokenizer import PromptTokenizer
from recipes.pixellm_mini import by_the_clock
from recipes.pixellm_mini.by_the_clock import Recipe, train
from support.tiny_model import write_tiny

RECIPE = Recipe(
    minutes=10, batch_size=1, warmup_steps=1, lr=1e-2, lr_language=1e-2, log_every=1, save_every=2
)


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[PixelLM, PromptTokenizer]:
    return checkpoint.load(write_tiny(tmp_path / "tiny"), dtype=torch.float32)


def sample(seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (80, 112, 3), dtype=np.uint8)
    left, right = np.zeros((80, 112), bool), np.zeros((80, 112), bool)
    left[10:60, 5:50], right[20:70, 60:100] = True, True
    return Sample(
        image,
        (
            Question(
                "the cup and the book", "cup is {seg} and book is {seg}.", (left, right), ("cup", "book")
            ),
            Question("any dog?", "There is no dog in this image.", (), ()),
            Question("book", "book is {seg}.", (right,), ("book",)),
        ),
    )


@pytest.mark.slow
def test_packed_questions_do_not_see_each_other(tiny: tuple[PixelLM, PromptTokenizer]) -> None:
    model, tokenizer = tiny
    whole = pack(sample(), model, tokenizer, max_targets=6)
    together = forward_losses(model, tokenizer, [whole], RECIPE)
    alone, tokens = 0.0, 0
    for branch in whole.branches:
        packed = PackedImage(whole.image, whole.resized, whole.prefix, [branch], whole.masks[:0])
        count = len(branch[0]) - branch[1]
        alone += count * _token_loss(model, tokenizer, packed, whole)
        tokens += count
    assert together.parts["ce"] == pytest.approx(alone / tokens, rel=1e-4)


def _token_loss(model: PixelLM, tokenizer: PromptTokenizer, packed: PackedImage, whole: PackedImage) -> float:
    targets = sum(token == tokenizer.codebook.ids[0] for token in packed.branches[0][0])
    packed.masks = whole.masks[:targets]
    return forward_losses(model, tokenizer, [packed], RECIPE).parts["ce"]


def test_negatives_have_no_token_loss_but_a_mask_loss(
    tiny: tuple[PixelLM, PromptTokenizer],
) -> None:
    model, tokenizer = tiny
    plain = pack(sample(), model, tokenizer, max_targets=6)
    _, branches = branch_off([("the dog", "dog is {seg}.")], model.config, tokenizer)
    masks = torch.cat([plain.masks, torch.zeros_like(plain.masks[:1])])
    negative = PackedImage(
        plain.image, plain.resized, plain.prefix, plain.branches + branches, masks, num_negatives=1
    )
    before = forward_losses(model, tokenizer, [plain], RECIPE).parts
    after = forward_losses(model, tokenizer, [negative], RECIPE).parts
    assert after["ce"] == pytest.approx(before["ce"], rel=1e-4)
    assert after["bce"] != pytest.approx(before["bce"], rel=1e-3)


def test_cached_tower_features_train_as_the_pixels_do(tiny: tuple[PixelLM, PromptTokenizer]) -> None:
    model, tokenizer = tiny
    plain = pack(sample(), model, tokenizer, max_targets=6)
    assert isinstance(plain.image, ProcessedImage)
    features = torch.stack(model.tower_features([plain.image]))[:, 0]
    with_features = replace(plain, image=features)
    pixels = forward_losses(model, tokenizer, [plain, plain], RECIPE).parts
    assert forward_losses(model, tokenizer, [plain, with_features], RECIPE).parts == pytest.approx(
        pixels, rel=1e-4
    )


def test_masks_are_taken_to_the_decoder_grid(tiny: tuple[PixelLM, PromptTokenizer]) -> None:
    model, tokenizer = tiny
    packed = pack(sample(), model, tokenizer, max_targets=6)
    assert packed.masks.shape == (3, 32, 32)
    # 80 x 112 becomes 80 x 112 of 112 x 112, hence 22.9 x 32 of 32 x 32 cells.
    assert packed.masks[0].sum().item() == pytest.approx(50 * 45 * (32 / 112) ** 2, rel=0.02)
    assert packed.masks[:, 24:].sum() == 0


def test_questions_beyond_the_limit_are_left_out_whole(tiny: tuple[PixelLM, PromptTokenizer]) -> None:
    model, tokenizer = tiny
    packed = pack(sample(), model, tokenizer, max_targets=2)
    assert len(packed.masks) == 2 and len(packed.branches) == 2
    for ids, _ in packed.branches:
        assert tokenizer.codebook.find_runs(ids)[1] == 0


@pytest.mark.parametrize("earlier_answer", ["cup is {seg} and book is {seg}.", "cup is [1] and book is [2]."])
def test_history_is_encoded_as_for_inference_and_has_no_token_loss(
    tiny: tuple[PixelLM, PromptTokenizer], earlier_answer: str
) -> None:
    model, tokenizer = tiny
    plain = sample()
    turns = (("the cup and the book", earlier_answer),)
    question = replace(plain.questions[2], text="only the book", history=turns)
    packed = pack(Sample(plain.image, (question,)), model, tokenizer, max_targets=6)
    ((ids, answer_at),) = packed.branches
    request = Request(Image.fromarray(plain.image), "only the book", turns)
    prompt = encode_prompt(model, tokenizer, request, 512)
    assert ids[:answer_at] == prompt.ids
    runs, loose = tokenizer.codebook.find_runs(ids)
    assert len(runs) == 3 and not loose
    answers = answer_states(model, [packed])
    assert len(answers.tokens) == len(ids) - answer_at
    assert len(answers.target_states(tokenizer)) == 6


@pytest.mark.slow
def test_training_learns_and_goes_on_after_a_stop(
    tiny: tuple[PixelLM, PromptTokenizer], tmp_path: Path
) -> None:
    model, tokenizer = tiny
    frozen = {k: v.clone() for k, v in model.state_dict().items() if "vision_tower" in k}
    endless = itertools.cycle([sample()])
    history = list(itertools.islice(train(model, tokenizer, endless, RECIPE, tmp_path), 16))
    assert history[-1]["ce"] < 0.85 * history[0]["ce"]
    assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())
    again, _ = checkpoint.load(tmp_path / "tiny", dtype=torch.float32)
    resumed = next(train(again, tokenizer, endless, RECIPE, tmp_path))
    assert resumed["step"] == 15  # saved every second step; the sixteenth was not
    assert resumed["ce"] < history[0]["ce"]


def test_a_loss_that_is_not_finite_stops_the_run(
    tiny: tuple[PixelLM, PromptTokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    nan = Losses(torch.tensor(float("nan")))
    monkeypatch.setattr(by_the_clock, "forward_losses", lambda *_: nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        list(train(model, tokenizer, itertools.cycle([sample()]), RECIPE, tmp_path))


def test_mask_losses() -> None:
    truth = torch.zeros(1, 8, 8)
    truth[0, :4] = 1
    valid = torch.ones_like(truth)
    right, wrong = 20 * (2 * truth - 1), 20 * (1 - 2 * truth)
    assert mask_bce(right, truth, valid).item() == pytest.approx(0, abs=1e-6)
    assert mask_bce(wrong, truth, valid).item() == pytest.approx(20)
    assert mask_dice(right, truth, valid).item() == pytest.approx(0, abs=1e-3)
    assert mask_dice(wrong, truth, valid).item() == pytest.approx(1, abs=1e-3)
    upper = valid.clone()
    upper[0, 4:] = 0
    assert mask_bce(wrong * upper + right * (1 - upper), truth, 1 - upper).item() == pytest.approx(
        0, abs=1e-6
    )
