"""The pyramid over the second tower's finer maps, and the pixel decoder that takes it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from pixellm_model import CheckpointError
from pixellm_model.clicks.features import CLICK_SIZE, tower_maps
from pixellm_model.config import PixelLMConfig
from pixellm_model.efficientnet import FINER, EfficientNetLite0
from pixellm_model.engine.segmenter import MINI
from pixellm_model.learning.packing import PackedImage
from pixellm_model.learning.training import encode
from pixellm_model.model import PixelLM
from pixellm_model.pixel_decoder import PromptEncoder
from pixellm_model.preprocess import ProcessedImage
from pixellm_model.pyramid import PyramidDecoder

GRID, DIM, WIDTHS = 6, 32, (8, 6, 4)


@pytest.fixture(scope="module")
def decoder() -> PyramidDecoder:
    torch.manual_seed(0)
    made = PyramidDecoder(DIM, 64, WIDTHS, pyramid_dim=16, hidden=24).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture(scope="module")
def narrow() -> PixelLMConfig:
    """The mini's shape with a pyramid, on pictures of 128 pixels."""
    config = PixelLMConfig.from_dict(json.loads((MINI / "config.json").read_text("utf-8")))
    return replace(config, pyramid_dim=16, image_size=128)


def sources(decoder: PyramidDecoder, count: int) -> list[torch.Tensor]:
    maps = [torch.randn(count, width, GRID << level, GRID << level) for level, width in enumerate(WIDTHS)]
    return [torch.randn(count, DIM, GRID, GRID), *decoder.pyramid(*maps)]


@torch.inference_mode()
def test_shapes_and_that_each_target_sees_its_own_image(decoder: PyramidDecoder) -> None:
    prompt_encoder = PromptEncoder(DIM)
    both, targets, owner = sources(decoder, 2), torch.randn(3, 2, DIM), torch.tensor([1, 0, 1])
    logits, (coarse, fine) = decoder(targets, both, prompt_encoder, owner)
    assert logits.shape == fine.shape == (3, 4 * GRID, 4 * GRID)
    assert coarse.shape == (3, 2 * GRID, 2 * GRID)
    assert decoder.presence(targets, both[1], owner).shape == (3,)
    for number, image in enumerate(owner.tolist()):
        alone, _ = decoder(
            targets[number : number + 1],
            [level[image : image + 1] for level in both],
            prompt_encoder,
            torch.zeros(1, dtype=torch.long),
        )
        assert torch.allclose(alone[0], logits[number], atol=1e-4)


@torch.inference_mode()
def test_presence_raises_all_logits_alike(decoder: PyramidDecoder) -> None:
    levels, targets, owner = sources(decoder, 1)[1:], torch.randn(1, 2, DIM), torch.tensor([0])
    before, presence = (
        decoder.fine_logits(targets, levels, owner),
        decoder.presence(targets, levels[0], owner),
    )
    kept = decoder.weights.clone()
    try:
        decoder.weights[1] += 1
        raised = decoder.fine_logits(targets, levels, owner) - before
    finally:
        decoder.weights.copy_(kept)
    assert torch.allclose(raised, presence[:, None, None].expand_as(raised), atol=1e-4)


@torch.inference_mode()
def test_the_second_tower_gives_finer_maps_and_the_same_features() -> None:
    tower = EfficientNetLite0().eval()
    pixels = torch.randn(1, 3, 128, 128)
    features, middle, shallow = tower.maps(pixels)
    assert torch.equal(features, tower(pixels))
    assert middle.shape == (1, FINER[0], 8, 8) and shallow.shape == (1, FINER[1], 16, 16)


@torch.inference_mode()
def test_a_model_with_a_pyramid_draws_at_an_eighth(narrow: PixelLMConfig) -> None:
    model = PixelLM(narrow).eval()
    image = ProcessedImage(torch.randn(3, 128, 128), (128, 100), (128, 100))
    features = model.encode_image([image])
    logits, _ = model.decode_from(
        torch.randn(2, 2, narrow.decoder_dim), model.sources(features), torch.tensor([0, 0])
    )
    assert logits.shape == (2, 4 * narrow.grid, 4 * narrow.grid) == (2, 16, 16)
    kept = tuple(state[0] for state in model.tower_features([image]))
    again = encode(model, [PackedImage(kept, image.resized, [], [], torch.zeros(0))])
    for one, other in zip(model.sources(features), model.sources(again), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_config_keeps_the_pyramid_and_older_ones_have_none(narrow: PixelLMConfig) -> None:
    raw = narrow.to_dict()
    assert PixelLMConfig.from_dict(raw).pyramid_dim == 16
    without = replace(narrow, pyramid_dim=0).to_dict()
    assert "pyramid_dim" not in without and PixelLMConfig.from_dict(without).pyramid_dim == 0
    with pytest.raises(CheckpointError, match="pyramid_dim"):
        PixelLMConfig.from_dict({**raw, "second_tower": None})


@torch.inference_mode()
def test_clicks_see_the_features_that_they_see_without_a_pyramid(narrow: PixelLMConfig) -> None:
    torch.manual_seed(0)
    wide = PixelLM(narrow).eval()
    plain = PixelLM(replace(narrow, pyramid_dim=0)).eval()
    plain.model.vision_tower.load_state_dict(wide.model.vision_tower.state_dict())
    size = narrow.image_size
    image = ProcessedImage(torch.randn(3, size, size), (size, size - 30), (300, 230))
    ours, theirs = tower_maps(wide, image), tower_maps(plain, image)
    assert ours.size == CLICK_SIZE and torch.equal(ours.first, theirs.first)
    assert ours.second.keys() == theirs.second.keys()
