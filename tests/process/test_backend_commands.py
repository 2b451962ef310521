"""What the commands of `python -m backend` print when they start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.__main__ import main
from support.workers import ROOT


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


def test_the_database_is_set_up_without_a_word(redis_url: str, tmp_path: Path) -> None:
    environment = os.environ | {"DATA_DIR": str(tmp_path), "REDIS_URL": redis_url, "LOG_LEVEL": "INFO"}
    command = [sys.executable, "-m", "backend", "reconcile"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert (tmp_path / "pixellm.db").is_file()
