"""Weights in 8 bits: smaller, and the same masks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixellm_model import Segmenter
from support.tiny_model import write_tiny

SAMPLES = Path(__file__).parents[2] / "demo" / "samples"
PROMPTS = ("the cup", "the book", "the cup and the book", "Where is the apple?", "Segment the cat.")


@pytest.fixture(scope="module")
def rounded() -> Segmenter:
    return Segmenter.from_pretrained(device="cpu", dtype="int8")


@pytest.mark.slow
def test_answers_and_masks_are_those_of_full_precision(rounded: Segmenter) -> None:
    exact = Segmenter.from_pretrained(device="cpu")
    seen = 0
    for name in ("scene_table", "scene_meadow", "cat", "coffee"):
        image = Image.open(SAMPLES / f"{name}.jpg").convert("RGB")
        for prompt in PROMPTS:
            one, other = exact.segment(image, prompt), rounded.segment(image, prompt)
            assert other.answer == one.answer
            for target, near in zip(one.targets, other.targets, strict=True):
                union = np.count_nonzero(target.mask | near.mask)
                assert np.count_nonzero(target.mask & near.mask) >= 0.98 * union
                seen += union > 0
    assert seen > 5


def test_only_matrices_of_tower_and_language_model_are_rounded(rounded: Segmenter) -> None:
    model = rounded.model
    small = {name.split(".")[1] for name, p in model.named_parameters() if p.dtype == torch.int8}
    assert small == {"layers", "vision_tower"}
    full = Segmenter.from_pretrained(device="cpu").model
    assert sum(p.nbytes for p in model.parameters()) < 0.5 * sum(p.nbytes for p in full.parameters())


def test_the_version_says_so_and_nothing_rounded_is_saved(rounded: Segmenter, tmp_path: Path) -> None:
    assert rounded.version == Segmenter.from_pretrained(device="cpu").version + "-int8"
    with pytest.raises(ValueError, match="full precision"):
        rounded.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_bitsandbytes_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(ValueError, match=r"pixellm-assist\[int8\]"):
        Segmenter.from_pretrained(write_tiny(tmp_path), device="cpu", dtype="int8")
