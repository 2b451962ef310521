"""Installs what the tests need in addition to the project's environment: Chromium and Label Studio.

`python -m demo.system` installs both. Chromium is installed only where no password is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from demo.console import DemoError, step
from demo.environment import ROOT
from demo.label_studio import prepare

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = "install Chromium (on Debian: apt-get install chromium) or name one by CHROMIUM=/path/to/chromium"


def chromium() -> str | None:
    """Return the browser's path: the one in `CHROMIUM`, else the first on the PATH; None if there is none."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next(filter(None, map(shutil.which, NAMES)), None)


def install_chromium() -> None:
    """Install Debian's package, as root or with a sudo that needs no password.

    Raises:
        DemoError: There is no apt-get or no such sudo, or the installation failed.
    """
    apt = shutil.which("apt-get")
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if apt is None or (sudo and shutil.which("sudo") is None):
        raise DemoError(f"Chromium is missing; {HOW}.")
    log = ROOT / "artifacts" / "chromium-install.log"
    log.parent.mkdir(exist_ok=True)
    with step("Chromium: installing it for the browser tests") as close_with, log.open("wb") as output:
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            done = subprocess.run(
                [*sudo, apt, "--quiet", *arguments],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                raise DemoError(f"apt-get {arguments[0]} failed; {HOW}.", log)
        close_with("Chromium: installed")


def main() -> None:
    """Install Chromium and Label Studio unless they are installed."""
    try:
        if chromium() is None:
            install_chromium()
    except DemoError as error:
        # The browser tests are then skipped with a message.
        print(f"demo: {error}")
    try:
        prepare()
    except DemoError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
