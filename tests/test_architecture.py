"""Imports run one way: backend -> worker -> pixellm_model, backend -> label_config; and no further."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"backend", "worker", "pixellm_model", "label_config", "demo", "recipes", "benchmarks"}
MAY_IMPORT = {
    "pixellm_model": set(),
    "label_config": set(),
    "worker": {"pixellm_model"},
    "backend": {"worker", "label_config"},
}
FOREIGN = {
    "pixellm_model": {"redis", "rq", "label_studio_sdk", "label_studio_ml", "starlette", "httpx"},
    "label_config": {"torch", "redis", "rq", "transformers"},
    "worker": {"torch", "transformers", "starlette", "label_studio_ml"},
    "backend": {"torch", "transformers", "safetensors"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        wrong = imported(path) & ((ROOMS - MAY_IMPORT[room] - {room}) | FOREIGN[room])
        assert not wrong, f"{path.relative_to(ROOT)} must not import {', '.join(sorted(wrong))}"


def test_the_backend_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import backend.app, backend.__main__, backend.collect, backend.collector_process, backend.announce\n"
        "import worker.queue, worker.contract, worker.masks, worker.training, worker.registry"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_stay_readable() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            lines = len(path.read_text("utf-8").splitlines())
            assert lines <= 420, f"{path.relative_to(ROOT)} has {lines} lines; split it by idea"
