"""The command line of `python -m worker`: what runs, and what its help says."""

from __future__ import annotations

from pathlib import Path

import pytest

import worker.__main__ as command_line
from worker.settings import WorkerSettings
from worker.store import dataset


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, WorkerSettings]]:
    """The processes that were started, and their settings."""
    processes: list[tuple[str, WorkerSettings]] = []

    def serve(settings: WorkerSettings, load: object) -> int:
        processes.append(("segment", settings))
        return 0

    def learn(settings: WorkerSettings) -> int:
        processes.append(("learn", settings))
        return 0

    monkeypatch.setattr(command_line, "serve", serve)
    monkeypatch.setattr(command_line, "learn", learn)
    return processes


@pytest.mark.parametrize(
    ("arguments", "process", "device"),
    [
        ([], "segment", "auto"),
        (["--device", "cpu"], "segment", "cpu"),
        (["segment", "--device", "cpu"], "segment", "cpu"),
        (["learn"], "learn", "auto"),
        (["learn", "--device", "cpu"], "learn", "cpu"),
    ],
)
def test_segment_is_the_default(
    started: list[tuple[str, WorkerSettings]], arguments: list[str], process: str, device: str
) -> None:
    assert command_line.main(arguments) == 0
    ((name, settings),) = started
    assert (name, settings.device) == (process, device)


def test_the_help_names_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for command in (
        "segment",
        "learn",
        "train",
        "runs",
        *(f"dataset {name}" for name in ("stat", "export", "show")),
        *(f"versions {name}" for name in ("list", "show", "promote", "rollback")),
    ):
        assert any(
            line.startswith(("    ", "  ")) and line.strip().startswith(f"{command} ") for line in lines
        )


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["versions"], ["dataset", "stat"], ["runs", "--device", "x"]]
)
def test_a_wrong_command_line_ends_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2


def test_a_command_runs_and_one_that_cannot_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert command_line.main(["versions", "list"]) == 0
    assert capsys.readouterr().out == "no versions yet: the base answers every project\n"
    assert command_line.main(["runs"]) == 0
    assert command_line.main(["dataset", "export", "--project", "1", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "Project 1 has no corrections to export.\n"
    assert command_line.main(["dataset", "show", "7"]) == 1
    assert capsys.readouterr().err == "Nothing is known of annotation 7.\n"
    assert command_line.main(["versions", "rollback", "--project", "1"]) == 1


def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "localhost")
    with pytest.raises(SystemExit) as ended:
        command_line.main(["runs"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("REDIS_URL: must begin with redis://")


@pytest.mark.parametrize("limit", ["0", "-1", str(2**70)])
def test_a_limit_out_of_range_is_one_sentence(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert command_line.main(["runs", "--limit", limit]) == 1
    assert capsys.readouterr().err == f"--limit is {limit}; give a number from 1 to 1000000.\n"


def test_an_export_over_a_file_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(dataset, "corrections_of", lambda database, project, reviewed_only: ["a correction"])
    monkeypatch.setattr(dataset, "export_muse", lambda corrections, blobs, folder: folder.mkdir())
    arguments = ["dataset", "export", "--project", "1", "--out"]
    assert command_line.main([*arguments, str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'file'} is a file; name a new folder.\n"
    assert command_line.main([*arguments, str(tmp_path / "file" / "below")]) == 1
    assert "Not a directory" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"
