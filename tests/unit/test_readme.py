"""README and docs are true: settings, links, Python blocks, commands, versions, and the examples run."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import pixellm_model
from support.folder_graph import mermaid
from support.settings_table import READ_BY, fields, settings_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "examples" / "README.md",
        ROOT / "pixellm_model" / "mini" / "README.md",
        ROOT / "recipes" / "pixellm_mini" / "README.md",
    ]
)
SHELL_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
PYTHON_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s:]+)\)")
PATH = re.compile(
    r"`((?:backend|worker|pixellm_model|label_config|recipes|benchmarks|demo|docs|tests)/[\w./-]+)`"
)
FOLDERS = {
    "backend": ("backend", "worker/jobs", "worker/store"),
    "collector": ("backend", "worker/images", "worker/jobs", "worker/store", "worker"),
    "worker": ("worker",),
    "learner": ("worker",),
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def documents_with(pattern: re.Pattern[str]) -> list[Path]:
    return [path for path in DOCUMENTS if pattern.search(path.read_text("utf-8"))]


def test_the_settings_table_is_the_settings() -> None:
    table = settings_table()
    assert table in (ROOT / "docs" / "settings.md").read_text("utf-8"), f"Put this table there:\n{table}"


def test_every_setting_has_a_reader_and_no_reader_has_another() -> None:
    assert set.union(*READ_BY.values()) == set(fields())


@pytest.mark.parametrize("process", READ_BY)
def test_a_process_can_read_the_settings_it_is_said_to_read(process: str) -> None:
    sources = {path for folder in FOLDERS[process] for path in (ROOT / folder).rglob("*.py")}
    source = "\n".join(path.read_text("utf-8") for path in sources if path.name != "settings.py")
    assert not {name for name in READ_BY[process] if not re.search(rf"\.{name}\b", source)}


def test_the_diagram_is_the_import_table() -> None:
    diagram = mermaid()
    assert diagram in (ROOT / "CONTRIBUTING.md").read_text("utf-8"), f"Put this diagram there:\n{diagram}"


@pytest.mark.slow
@pytest.mark.parametrize("document", documents_with(PYTHON_BLOCK), ids=named)
def test_python_blocks_run(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for block in PYTHON_BLOCK.findall(document.read_text("utf-8")):
        exec(compile(block, named(document), "exec"), {"__name__": "readme"})


@cache
def anchors(document: Path) -> frozenset[str]:
    """The anchors of a document's headings, as a forge makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return frozenset(text.replace(" ", "-") for text in words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_linked_files_and_headings_exist(document: Path) -> None:
    for target in LINK.findall(document.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), f"{named(document)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(path), f"{named(document)} links to {target}, which has no such heading"


@pytest.mark.parametrize("document", documents_with(PATH), ids=named)
def test_named_files_exist(document: Path) -> None:
    for path in PATH.findall(document.read_text("utf-8")):
        assert (ROOT / path).exists(), f"{named(document)} names {path}, which does not exist"


# Runs `--help` of many commands in one process, so that torch is imported once. Prints those that fail.
HELP = """
import contextlib, io, json, runpy, sys
for module, *subcommands in json.loads(sys.argv[1]):
    sys.argv = [module, *subcommands, "--help"]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        print(module, *subcommands, "does not know --help")
    except SystemExit as end:
        if end.code or not shown.getvalue().startswith("usage:"):
            print(module, *subcommands, "ends with", end.code)
    except ModuleNotFoundError as missing:
        if missing.name not in ("gguf", "onnx", "onnxruntime"):  # the extra `train`
            raise
"""


def typed_commands() -> set[tuple[str, ...]]:
    """Module and subcommands of every `python -m ...` in the documents."""
    commands: set[tuple[str, ...]] = set()
    for document in DOCUMENTS:
        text = document.read_text("utf-8").replace("\\\n", " ")
        for module, rest in re.findall(r"python -m ([a-z][\w.]*)([^`\n#]*)", text):
            if (ROOT / module.split(".")[0]).is_dir():
                words = list(itertools.takewhile(re.compile("[a-z_]+").fullmatch, rest.split()))
                commands.add((module, *words[: subcommands(module, words)]))
    return commands


def subcommands(module: str, words: list[str]) -> int:
    """How many of the words after a module are subcommands; the others are arguments."""
    if module == "worker" and words[:1] in (["dataset"], ["versions"]):
        return 2
    return 1 if module in ("pixellm_model", "worker", "backend", "label_config") else 0


def uses_argparse(module: str) -> bool:
    """Whether the module has a command line; it must exist in any case."""
    path = ROOT / module.replace(".", "/")
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__main__.py"
    assert source.is_file(), f"there is no python -m {module}"
    return bool(re.search(r"argparse|command\(__doc__", source.read_text("utf-8")))


@pytest.mark.slow
def test_every_documented_command_exists() -> None:
    commands = sorted(command for command in typed_commands() if uses_argparse(command[0]))
    assert ("worker", "versions", "rollback") in commands and ("backend", "reconcile") in commands
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("document", documents_with(SHELL_BLOCK), ids=named)
def test_make_targets_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text("utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), (
            f"{named(document)}: there is no make {target}"
        )


def test_the_picture_is_small() -> None:
    picture = ROOT / "docs" / "images" / "prompts.jpg"
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.format == "JPEG" and image.width > 1000


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert project["version"] == pixellm_model.__version__ == citation["version"]


def test_the_installed_commands_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert set(scripts) == {"pixellm", "pixellm-backend", "pixellm-worker"}
    for entry in scripts.values():
        module, function = entry.split(":")
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text("utf-8")
        assert re.search(rf"^def {function}\(\w+: [^)=]+= None\)", source, re.MULTILINE), entry


def test_forges_run_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert steps == ["make lint", "make test-quick", ".ci/run"]
    for template in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(template.read_text("utf-8"))


def run_example(name: str, *arguments: str) -> str:
    script = str(ROOT / "examples" / name)
    done = subprocess.run([sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_that_segments_an_image(tmp_path: Path) -> None:
    image = ROOT / "demo" / "samples" / "scene_table.jpg"
    shown = run_example("segment_image.py", str(image), "the cup and the book", "--out", str(tmp_path))
    assert shown.startswith("cup is [1] and book is [2].")
    instances = json.loads((tmp_path / "instances.json").read_text("utf-8"))
    assert [category["name"] for category in instances["categories"]] == ["cup", "book"]
    for number, annotation in enumerate(instances["annotations"], 1):
        mask = np.asarray(Image.open(tmp_path / f"mask_{number}.png")) > 0
        assert list(mask.shape) == annotation["segmentation"]["size"] and mask.sum() == annotation["area"]


@pytest.mark.slow
def test_the_example_that_measures_a_data_set() -> None:
    shown = run_example("evaluate_folder.py", "worker/learning/regression", "--limit", "1", "--worst", "2")
    assert "gIoU" in shown and shown.count("  IoU ") == 2
