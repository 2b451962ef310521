"""The second tower, which only the mini has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pixellm_model import CheckpointError, Segmenter
from pixellm_model.config import SECOND_TOWERS, PixelLMConfig
from pixellm_model.efficientnet import CHANNELS, STRIDE, EfficientNetLite0, SameConv
from pixellm_model.engine.segmenter import MINI
from pixellm_model.preprocess import process_image


def test_its_shape_is_what_the_config_says() -> None:
    assert SECOND_TOWERS["efficientnet_lite0"] == (STRIDE, CHANNELS)
    with torch.inference_mode():
        assert EfficientNetLite0()(torch.randn(2, 3, 128, 128)).shape == (2, 16, CHANNELS)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2), (1, 1)])
def test_padding_is_tensorflow_s(kernel: int, stride: int) -> None:
    conv = SameConv(2, 3, kernel, stride)
    x = torch.randn(1, 2, 16, 16)
    total = max(0, (16 // stride - 1) * stride + kernel - 16)
    padded = F.pad(x, (total // 2, total - total // 2) * 2)
    expected = F.conv2d(padded, conv.weight, conv.bias, stride)
    assert conv(x).shape[-1] == 16 // stride
    assert torch.allclose(conv(x), expected, atol=1e-5)


@pytest.mark.slow
def test_both_towers_see_one_grid_and_each_scale_has_both() -> None:
    model = Segmenter.from_pretrained(device="cpu").model
    with torch.inference_mode():
        image = process_image(Image.new("RGB", (300, 200), "red"), model.config.image_size)
        deep, shallow, *_ = model.tower_features([image])
    assert deep.shape == shallow.shape == (1, model.config.grid**2, model.config.feature_width)
    assert torch.equal(deep[..., -CHANNELS:], shallow[..., -CHANNELS:])
    assert not torch.equal(deep[..., :-CHANNELS], shallow[..., :-CHANNELS])


def test_an_unknown_second_tower_is_refused(tmp_path: Path) -> None:
    raw = json.loads((MINI / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"'resnet'.*efficientnet_lite0"):
        PixelLMConfig.from_dict({**raw, "second_tower": "resnet"})
