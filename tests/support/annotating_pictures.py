"""Takes the pictures of docs/annotating.md, from a real Label Studio in a real browser.

python -m tests.support.annotating_pictures
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Route, expect

from demo import samples
from demo.environment import ROOT
from demo.stack import Ports, Stack

sys.path.insert(0, str(ROOT / "tests"))
from support.browser import chromium_path
from support.label_studio import LAPTOP, Editor, browser_page

FOLDER = ROOT / "docs" / "images" / "annotating"
TEMPLATE = ROOT / "label_config" / "templates" / "interactive.xml"
WIDTH, QUALITY = 1000, 80  # of a picture in the documentation
DRAFT_S = 6.0  # Label Studio saves a draft five seconds after the last change
UNKNOWN = "the didgeridoo"


def take(editor: Editor, name: str) -> None:
    """Save what the browser shows as `name`.jpg."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        editor.page.screenshot(path=file.name)
        with Image.open(file.name) as screen:
            height = round(screen.height * WIDTH / screen.width)
            picture = screen.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    picture.save(FOLDER / f"{name}.jpg", quality=QUALITY, optimize=True)
    print(f"{name}.jpg: {editor.answer() if editor.answer_box.count() else ''}", flush=True)


def prompts(editor: Editor, task: int) -> None:
    """Ask twice, accept, ask for something unknown, choose one of two masks."""
    editor.visit(task)
    take(editor, "off")
    editor.switch_on()
    editor.prompt.fill("the cup and the book")

    def delayed(route: Route) -> None:
        time.sleep(3)
        route.continue_()

    editor.page.route("**/interactive-annotating", delayed)
    editor.prompt.press("Enter")
    expect(editor.note("asking")).to_be_visible()
    take(editor, "looking")
    expect(editor.note("asking")).to_be_hidden(timeout=60_000)
    editor.page.unroute("**/interactive-annotating")
    expect(editor.note("pending")).to_be_visible()
    take(editor, "pending")
    editor.accept_all(2)
    take(editor, "accepted")
    time.sleep(DRAFT_S)
    masks = [item for item in editor.ask("the banana") if item["type"] == "brushlabels"]
    take(editor, "next")
    editor.accept_all(len(masks))
    editor.ask(UNKNOWN)
    take(editor, "unknown")
    editor.ask("the teapot and the apple")
    editor.ask("only the right one")
    take(editor, "chosen")
    editor.reject_all()


def points(editor: Editor) -> None:
    """Begin the apple with a click, take a part of it away, and submit."""
    editor.auto_detect()
    editor.point(0.73, 0.62)
    take(editor, "begun")
    editor.accept_all(1)
    time.sleep(DRAFT_S)
    editor.point(0.76, 0.70, "Control", "Alt")
    take(editor, "corrected")
    editor.accept_all(1)
    editor.submit()
    take(editor, "submitted")


def main() -> None:
    """Take all pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack", Ports(0, 0))
        try:
            stack.start()
            label_studio = stack.label_studio
            number = label_studio.create_project("Kitchen", TEMPLATE.read_text(), samples.images())
            label_studio.attach(number, stack.backend_url)
            shots = Path(folder) / "shots"
            shots.mkdir()
            with browser_page(chromium_path(), LAPTOP) as page:
                editor = Editor(page, label_studio, number, shots)
                editor.log_in()
                prompts(editor, label_studio.task_of(number, samples.PROVED))
                points(editor)
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
