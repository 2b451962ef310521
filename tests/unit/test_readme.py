"""The README says what is true: its settings table is the settings', its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from backend.settings import BackendSettings
from worker.settings import Settings, WorkerSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def settings_table() -> str:
    """The Markdown table of every environment variable and who reads it."""
    rows = ["| variable | default | read by | what it is |", "| --- | --- | --- | --- |"]
    for kind, reader in ((Settings, "both"), (WorkerSettings, "worker"), (BackendSettings, "backend")):
        for name, field in kind.model_fields.items():
            if kind is not Settings and name in Settings.model_fields:
                continue
            default = field.default
            assert default is not PydanticUndefined
            shown = default.get_secret_value() if isinstance(default, SecretStr) else default
            text = f"`{shown}`" if shown not in (None, "") else ""
            rows.append(f"| `{name.upper()}` | {text} | {reader} | {field.description} |")
    return "\n".join(rows)


def test_the_settings_table_is_the_settings() -> None:
    table = settings_table()
    assert table in README, f"Put this table into README.md:\n{table}"


def test_the_python_in_the_readme_runs(tmp_path: Path, monkeypatch: object) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"


def test_the_two_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in ("demo", "test"):
        assert f"make {command}" in README and re.search(rf"^{command}:", makefile, re.MULTILINE)
