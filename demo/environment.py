"""Creates virtual environments with progress and a log. Standard library only: it runs before any exists.

`python -m demo.environment` creates the project's own, `.venv`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from demo.console import DemoError, step

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)


def make(venv: Path, title: str, constraints: Path, requirements: list[str]) -> None:
    """Create or complete a virtual environment.

    The file `.complete` is written last, so that an interrupted installation is repeated.

    Args:
        venv: The environment's folder.
        title: What is installed, for people.
        constraints: A constraints file for pip.
        requirements: Arguments of `pip install`.

    Raises:
        DemoError: This Python is too old, or the environment or a package cannot be installed.
    """
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise DemoError(f"Python {oldest} or newer is needed; name one: make PYTHON=/path/to/python{oldest}.")
    log = venv.with_name(f"{venv.name}.log")
    with step(f"{title}: installing into {venv.name} (minutes, once)") as close_with:
        python = str(venv / "bin" / "python")
        _run(
            [sys.executable, "-m", "venv", str(venv)],
            f"{venv.name} could not be made; on Debian and Ubuntu: apt-get install python3-venv.",
            log,
        )
        _run(
            [python, "-m", "pip", "install", "--no-input", "-c", str(constraints), *requirements],
            f"pip could not install {title}; is the package index reachable?",
            log,
        )
        (venv / ".complete").touch()
        log.unlink()
        close_with(f"{title}: installed into {venv.name}")


def _run(command: list[str], failure: str, log: Path) -> None:
    with log.open("a") as output:
        code = subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        raise DemoError(failure, log)


if __name__ == "__main__":
    try:
        make(ROOT / ".venv", "PixelLM Assist", ROOT / "constraints.txt", ["-e", ".[dev]"])
    except DemoError as error:
        sys.exit(f"demo: {error}")
