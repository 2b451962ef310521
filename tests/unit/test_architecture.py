"""Imports run one way, folder by folder, without circles; job paths written as strings are imports too."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import backend.job_names
import worker.jobs.names

ROOT = Path(__file__).parents[2]
PACKAGES = ("pixellm_model", "label_config", "worker", "backend")
OUTSIDE = {"demo", "recipes", "benchmarks", "examples", "tests", "support"}

# What each folder may import from the others. A folder only names folders above it, so no folder can be part
# of a circle. CONTRIBUTING.md draws this table.
MAY_IMPORT: dict[str, set[str]] = {
    "pixellm_model": set(),
    "pixellm_model/clicks": {"pixellm_model"},
    "pixellm_model/engine": {"pixellm_model", "pixellm_model/clicks"},
    "pixellm_model/learning": {"pixellm_model", "pixellm_model/engine"},
    "pixellm_model/measuring": {"pixellm_model", "pixellm_model/engine"},
    "pixellm_model/synthetic": {"pixellm_model"},
    "pixellm_model/data": {"pixellm_model", "pixellm_model/synthetic"},
    "label_config": set(),
    "worker": set(),
    "worker/jobs": {"worker", "pixellm_model"},
    "worker/images": {"worker", "pixellm_model"},
    "worker/store": {"worker", "worker/jobs"},
    "worker/store/migrations": {"worker/store"},
    "worker/serving": {"worker", "worker/jobs", "worker/images", "worker/store", "pixellm_model"},
    "worker/learning": {
        "worker",
        "worker/jobs",
        "worker/images",
        "worker/store",
        "pixellm_model",
        "pixellm_model/engine",
        "pixellm_model/data",
        "pixellm_model/learning",
        "pixellm_model/measuring",
    },
    "backend": {"worker"},
    "backend/label_studio": {"backend", "worker"},
    "backend/prompts": {
        "backend",
        "backend/label_studio",
        "label_config",
        "worker",
        "worker/jobs",
        "worker/store",
    },
    "backend/prelabelling": {
        "backend",
        "backend/label_studio",
        "backend/prompts",
        "label_config",
        "worker",
        "worker/jobs",
        "worker/images",
        "worker/store",
    },
    "backend/corrections": {
        "backend",
        "backend/label_studio",
        "backend/prompts",
        "label_config",
        "worker",
        "worker/jobs",
        "worker/images",
        "worker/store",
    },
    "backend/http": {
        "backend",
        "backend/prompts",
        "backend/corrections",
        "label_config",
        "worker",
        "worker/jobs",
        "worker/store",
    },
}
# Programs put everything together; nothing imports them. `label_config/__main__.py` is one: its
# `check --project` uses the backend's client of Label Studio, while the reader imports no other folder.
ENTRY_POINTS = {"__main__.py", "backend/label_studio_ml.py", "pixellm_model/__init__.py"}
WITHOUT_TORCH = ("backend", "label_config", "worker/jobs", "worker/images", "worker/store")
FOREIGN = {
    "pixellm_model": {
        "redis",
        "rq",
        "label_studio_sdk",
        "label_studio_ml",
        "starlette",
        "httpx",
        "sqlalchemy",
    },
    "label_config": {"torch", "redis", "rq", "transformers"},
    "worker": {"torch", "transformers", "starlette", "label_studio_ml", "label_studio_sdk"},
    "backend": {"torch", "transformers", "safetensors", "label_studio_sdk"},
}
# The one folder without a row of its own: its files obey that of `worker/store/migrations`.
MIGRATIONS = "worker/store/migrations/versions"
JOB_LISTS = (ROOT / "worker/jobs/names.py", ROOT / "backend/job_names.py")
DOTTED = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")
JOB_PATH = re.compile(r"(backend|worker)(\.[a-z_]+){2,}")


def files(folder: str) -> list[Path]:
    """The Python files directly in `folder` that are no program."""
    return [path for path in sorted((ROOT / folder).glob("*.py")) if not is_entry_point(path)]


def all_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def is_entry_point(path: Path) -> bool:
    return path.name in ENTRY_POINTS or str(path.relative_to(ROOT)) in ENTRY_POINTS


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules that `path` imports anywhere, in functions and for types too, and those named in strings.

    A name that `pixellm_model` imports only when it is used stands for the module that defines it.
    """
    names: set[str] = set()
    if path not in JOB_LISTS:
        dotted = [text for text in strings(path) if DOTTED.fullmatch(text)]
        names |= {name for text in dotted for name in (text, text.rpartition(".")[0]) if source_of(name)}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.relative_to(ROOT)}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if source_of(whole) else lazy_exports().get(whole, str(node.module)))
    return frozenset(names)


@cache
def lazy_exports() -> dict[str, str]:
    """`pixellm_model.NAME` for each name imported under TYPE_CHECKING there, and the module it comes from."""
    tree = ast.parse((ROOT / "pixellm_model/__init__.py").read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {f"pixellm_model.{alias.name}": str(node.module) for node in imports for alias in node.names}


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def source_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def folder_of(module: str) -> str | None:
    """The folder a module of ours lies in; None for what is not ours."""
    if module.split(".")[0] not in PACKAGES:
        return None
    source = source_of(module)
    assert source is not None, f"there is no module {module}"
    return str(source.parent.relative_to(ROOT))


def test_the_table_names_every_folder() -> None:
    found = {str(path.parent.relative_to(ROOT)) for path in all_files()}
    assert found == set(MAY_IMPORT) | {MIGRATIONS}


def test_folders_only_import_folders_above_them() -> None:
    above: set[str] = set()
    for folder, allowed in MAY_IMPORT.items():
        assert allowed <= above, f"{folder} imports a folder below it"
        above.add(folder)


@pytest.mark.parametrize("folder", [*MAY_IMPORT, MIGRATIONS])
def test_imports_run_one_way(folder: str) -> None:
    package = folder.split("/")[0]
    allowed = MAY_IMPORT[folder if folder != MIGRATIONS else "worker/store/migrations"] | {folder}
    for path in files(folder):
        modules = imported(path)
        wrong = {
            module
            for module in modules
            if (target := folder_of(module)) is not None and target not in allowed
        }
        wrong |= {module for module in modules if module.split(".")[0] in OUTSIDE | FOREIGN[package]}
        assert not wrong, f"{path.relative_to(ROOT)} must not import {', '.join(sorted(wrong))}"


def test_nothing_imports_a_program() -> None:
    programs = {module_of(path) for path in all_files() if is_entry_point(path)} - {"pixellm_model"}
    assert {"worker.__main__", "backend.label_studio_ml"} <= programs
    for path in all_files():
        wrong = imported(path) & programs
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_nothing_is_imported_by_a_computed_name() -> None:
    for path in all_files():
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {node.name for node in nodes if isinstance(node, ast.alias)}
        wrong = names & {"import_module", "__import__"}
        assert not wrong, f"{path.relative_to(ROOT)} uses {wrong}"


def test_no_modules_import_each_other() -> None:
    graph = {
        module_of(path): {module for module in imported(path) if folder_of(module) is not None}
        for folder in MAY_IMPORT
        for path in files(folder)
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for target in graph.get(module, set()) - {module}:
                visit(target, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def job_paths(module: object) -> set[str]:
    named = {key: value for key, value in vars(module).items() if not key.startswith("__")}
    return {value for value in named.values() if isinstance(value, str) and JOB_PATH.fullmatch(value)}


@pytest.mark.parametrize("names", [worker.jobs.names, backend.job_names])
def test_every_job_path_leads_to_a_function_of_its_package(names: ModuleType) -> None:
    package = names.__name__.split(".")[0]
    paths = job_paths(names)
    assert paths
    for path in paths:
        module, _, function = path.rpartition(".")
        assert module.startswith(f"{package}."), f"{path} belongs to another package"
        assert callable(getattr(importlib.import_module(module), function))


def test_job_paths_stand_in_one_file_of_each_package() -> None:
    for package in ("worker", "backend"):
        for path in (ROOT / package).rglob("*.py"):
            if path not in JOB_LISTS:
                written = {text for text in strings(path) if JOB_PATH.fullmatch(text)}
                assert not written, f"{path.relative_to(ROOT)} names {written}"


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_it_runs_without_torch(folder: str) -> None:
    modules = [
        module_of(path)
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "migrations" not in path.parts and path.name != "label_studio_ml.py"
    ]
    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
    code += "\n".join(f"import {module}" for module in modules)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_stay_readable() -> None:
    for folder in (*PACKAGES, "demo", "recipes", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text("utf-8").splitlines())
            assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines; split it by idea"
