"""Starts, watches and stops the processes of the demo."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from demo.console import DemoError, step

STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.2
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Service:
    """A running process with its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready` returns True. Raises DemoError when the process ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None:
                raise DemoError(f"{self.name} ended by itself: {self.last_log_line()}", self.log)
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} was not ready after {timeout_s:.0f} s.", self.log)
            time.sleep(POLL_INTERVAL_S)

    def last_log_line(self) -> str:
        """The last line of the log."""
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing.")

    def stop(self) -> None:
        """Terminate the process group; kill it after `STOP_TIMEOUT_S`."""
        self._signal_group(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        self._signal_group(signal.SIGKILL)
        self.process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Services:
    """Running services, which stop in the reverse order of their start."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._running: list[Service] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> Service:
        """Start a process that writes to a log file named after the service.

        Args:
            name: The service's name.
            command: The program and its arguments.
            environment: All its environment variables.
            cwd: The folder to start it in.

        Returns:
            The running service.
        """
        log = self._log_folder / f"{name.lower().replace(' ', '-')}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the whole foreground group; these are to be stopped in order instead.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        service = Service(name, process, log)
        self._running.append(service)
        return service

    def stop(self, service: Service) -> None:
        """Stop one service and everything that it started."""
        self._running.remove(service)
        service.stop()

    def stop_all(self) -> None:
        """Stop the services that still run, the last one first."""
        while self._running:
            service = self._running[-1]
            with step(f"stopping {service.name}") as close_with:
                self.stop(service)
                close_with(f"{service.name} stopped")

    def watch(self) -> Service:
        """Wait until a service ends by itself, and return it."""
        while True:
            for service in self._running:
                if service.process.poll() is not None:
                    return service
            time.sleep(POLL_INTERVAL_S)


def choose_port(wanted: int, owner: str, flag: str) -> int:
    """`wanted`, or any free one for 0, on the loopback interface. Raises DemoError if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except (OSError, OverflowError):
            raise DemoError(
                f"Port {wanted} for {owner} cannot be used, something else may listen there: "
                f"stop it, or choose another port with {flag} (0: any free one)."
            ) from None
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """In the child: have the kernel interrupt it when the demo is killed without a chance to clean up."""
    # A shell's background jobs ignore SIGINT, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
