"""The names of devices that users give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pixellm_model.__main__ import main
from pixellm_model.engine.precision import resolve_precision


@pytest.mark.parametrize("device", ["nonsense", "cuda:", "cuda:a", "cpu:x", "", "CPU"])
def test_an_unknown_device_is_an_error(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=f"Unknown device '{device}'; use auto, cpu, cuda or cuda:N"):
        resolve_precision(device, "auto")


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_precision("cuda:1", "auto") == ("cuda:1", torch.bfloat16)
    with pytest.raises(ValueError, match="torch sees only 2"):
        resolve_precision("cuda:2", "auto")


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.png")
    assert main(["segment", str(tmp_path / "photo.png"), "the mug", "--device", "nonsense"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pixellm: Unknown device 'nonsense'")
