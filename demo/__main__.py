"""`python -m demo`: starts everything, answers one prompt, and runs until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from demo import proof, samples
from demo.console import DemoError, step
from demo.environment import ROOT
from demo.stack import Ports, Stack

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser("python -m demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the proof")
    parser.add_argument("--port", type=int, default=Ports.label_studio, help="Label Studio's port (0: any)")
    parser.add_argument("--backend-port", type=int, default=Ports.backend, help="the backend's port (0: any)")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="a PixelLM checkpoint (default: pixellm-mini)"
    )
    parser.add_argument("--image", type=Path, default=samples.PROVED, help="the image the proof asks about")
    parser.add_argument("--prompt", default=samples.PROMPT, help="what the proof asks (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="for data, logs and the overlay")
    arguments = parser.parse_args()
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        return _run(arguments)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.image.is_file():
        raise DemoError(f"--image {arguments.image}: there is no such file.")
    print("PixelLM Assist")
    stack = Stack(arguments.folder.resolve(), Ports(arguments.port, arguments.backend_port), arguments.model)
    try:
        stack.start()
        proved = _prove(stack, arguments.image.resolve(), arguments.prompt)
        if arguments.once:
            return 0 if proved else 1
        print("  Switch on Auto-Annotation in the bar below the image. Type a prompt above it, press Enter,")
        print("  accept the masks with the tick in the bar, then Submit.")
        print("  Ctrl-C stops everything.", flush=True)
        try:
            ended = stack.services.watch()
        except KeyboardInterrupt:
            return 0
        raise DemoError(f"{ended.name} ended by itself: {ended.last_log_line()}", ended.log)
    finally:
        # A second Ctrl-C must not leave half of it running.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stack.stop()


def _prove(stack: Stack, image: Path, prompt: str) -> bool:
    """Whether the prompt was answered with masks. Raises DemoError when it was not answered at all."""
    label_studio = stack.label_studio
    images = list(dict.fromkeys([image, *samples.images()]))
    with step("project: creating it with the sample images") as close_with:
        template = ROOT / "label_config" / "templates" / "interactive.xml"
        project = label_studio.create_project("PixelLM demo", template.read_text(), images)
        backend = label_studio.attach(project, stack.backend_url)
        task = label_studio.task_of(project, image)
        close_with(f"project: {len(images)} images, the backend attached")
    with step(f"prompt: “{prompt}” on {image.name}") as close_with:
        started = time.monotonic()
        answered = proof.ask(label_studio, backend, task, prompt)
        seconds = time.monotonic() - started
        close_with(f"prompt: {len(answered.regions)} masks in {seconds:.1f} s")
    print(f"    prompt   {prompt}\n    answer   {answered.answer}")
    for region in answered.regions:
        label = ", ".join(region["value"]["brushlabels"])
        print(f"    mask     {proof.phrase(region)} (label {label}, score {region['score']:.2f})")
    overlay = stack.folder / "overlay.png"
    proof.draw(answered, image, overlay)
    print(f"    overlay  {overlay}\n")
    print(f"  open      {label_studio.url}/projects/{project}/data?task={task}")
    print(f"  user      {label_studio.user}\n  password  {label_studio.password}\n")
    if not answered.regions:
        print(f"  The answer has no mask. Logs: {stack.folder / 'logs'}", file=sys.stderr)
    return bool(answered.regions)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
