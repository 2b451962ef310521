"""The start of `python -m backend`: a wrong setting of the worker ends the commands that use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.__main__ import main


@pytest.mark.parametrize("arguments", [["collect"], ["reconcile"], ["reconcile", "--project", "1"]])
def test_a_wrong_setting_of_the_worker_is_named(
    arguments: list[str],
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MAX_IMAGE_BYTES", "abc")
    monkeypatch.setattr("backend.__main__.collect", lambda settings: pytest.fail("it collects"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("MAX_IMAGE_BYTES: ")
    assert not (tmp_path / "data").exists()
