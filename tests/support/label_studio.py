"""Label Studio's editor in a real browser, as the annotator uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright

from demo.label_studio import LabelStudio

# Headless in a container, with no word to the outside.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LAPTOP, DESKTOP = (1280, 720), (1400, 900)
# The model's first prompt on a busy machine; Label Studio itself gives up after 100 s.
ANSWER_TIMEOUT_MS = 100_000
LOAD_TIMEOUT_MS = 60_000


@contextmanager
def browser_page(executable: str, size: tuple[int, int] = DESKTOP) -> Iterator[Page]:
    """A page of a fresh browser, `size` (width, height) in pixels."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport=ViewportSize(width=size[0], height=size[1]))
        page.set_default_timeout(LOAD_TIMEOUT_MS)
        yield page
        browser.close()


class Editor:
    """The labeling screen of one project; each `shot` is a numbered picture in `pictures`."""

    def __init__(self, page: Page, label_studio: LabelStudio, project: int, pictures: Path) -> None:
        self.page = page
        self._label_studio = label_studio
        self._project = project
        self._pictures = pictures
        self._shots = 0

    def log_in(self) -> None:
        self.page.goto(f"{self._label_studio.url}/user/login/")
        self.page.locator("input[name=email]").fill(self._label_studio.user)
        self.page.locator("input[name=password]").fill(self._label_studio.password)
        self.shot("login")
        self.page.locator("button[type=submit]").click()
        self.page.wait_for_url(lambda url: "/login" not in url)

    def open(self, task: int) -> None:
        """Opens `task` and switches Auto-Annotation on, as the note above the image says."""
        self.visit(task)
        self.switch_on()

    def visit(self, task: int) -> None:
        """Opens `task` and leaves everything as it is."""
        self.page.goto(f"{self._label_studio.url}/projects/{self._project}/data?task={task}")
        expect(self.prompt).to_be_editable(timeout=LOAD_TIMEOUT_MS)
        self.page.wait_for_load_state("networkidle")

    def switch_on(self) -> None:
        """Switches Auto-Annotation on with the mouse; the browser remembers it."""
        if not self.toggle.is_checked():
            self._click(self.page.locator("label", has=self.toggle).or_(self.toggle).first)
        expect(self.toggle).to_be_checked()

    def ask(self, prompt: str) -> list[dict[str, Any]]:
        """Types `prompt`, presses Enter and returns the results that the editor is given."""
        self.prompt.fill(prompt)
        with self.page.expect_response("**/interactive-annotating", timeout=ANSWER_TIMEOUT_MS) as answered:
            self.prompt.press("Enter")
        results: list[dict[str, Any]] = answered.value.json()["data"]["result"]
        expect(self.note("asking")).to_be_hidden()
        return results

    def note(self, name: str) -> Locator:
        """One of the template's notes above the image: `off`, `asking` or `pending`."""
        return self.page.locator(f".pixellm-{name}")

    def answer(self) -> str:
        """What stands in the answer box."""
        box = self.answer_box
        expect(box.first).to_be_visible()
        return "\n".join(box.all_inner_texts())

    def accept_all(self, count: int) -> None:
        """Accepts the `count` masks that are suggested, with the tick in the bottom bar."""
        expect(self.page.get_by_text(f"{count} suggestion")).to_be_visible()
        self.shot("suggestions")
        accept = self.page.get_by_test_id("bottombar-accept-suggestions-button")
        accept.click()
        expect(accept).to_be_hidden()
        self.shot("accepted")

    def reject_all(self) -> None:
        """Rejects what is suggested, with the cross in the bottom bar."""
        reject = self.page.get_by_test_id("bottombar-reject-suggestions-button")
        reject.click()
        expect(reject).to_be_hidden()

    def click_submit(self) -> None:
        """Clicks where the Submit button is, whether it takes the click or not."""
        box = self.submit_button.bounding_box()
        assert box is not None
        self.page.mouse.click(box["x"] + 20, box["y"] + box["height"] / 2)

    def submit(self) -> None:
        """Submits with the mouse and waits until it is saved."""
        with self.page.expect_response("**/annotations?**") as saved:
            self.click_submit()
        assert saved.value.ok
        update = self.page.get_by_role("button").filter(has_text="Update")
        expect(update).to_be_visible(timeout=LOAD_TIMEOUT_MS)
        self.shot("submitted")

    def auto_detect(self) -> None:
        """Chooses the tool whose clicks are sent to the model."""
        self.page.locator(".lsf-toolbar > div").last.locator("button").first.click()

    def point(self, x: float, y: float, *keys: str) -> list[dict[str, Any]]:
        """Clicks at `x`, `y` (shares of width and height) with `keys` held; returns the results."""
        box = self.page.locator("canvas").first.bounding_box()
        assert box is not None
        with self.page.expect_response("**/interactive-annotating", timeout=ANSWER_TIMEOUT_MS) as answered:
            for key in keys:
                self.page.keyboard.down(key)
            self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            for key in reversed(keys):
                self.page.keyboard.up(key)
        results: list[dict[str, Any]] = answered.value.json()["data"]["result"]
        return results

    def regions(self) -> list[str]:
        """The labels in the list of regions, in its order."""
        return self.page.locator(".lsf-outliner-item__title").all_inner_texts()

    def shot(self, name: str) -> None:
        self._shots += 1
        self.page.screenshot(path=self._pictures / f"{self._shots:02}_{name}.png")

    def _click(self, target: Locator) -> None:
        box = target.bounding_box()
        assert box is not None
        self.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    @property
    def prompt(self) -> Locator:
        return self.page.locator("input[name=prompt]")

    @property
    def answer_box(self) -> Locator:
        return self.page.locator("[name^='answer:']")

    @property
    def submit_button(self) -> Locator:
        return self.page.get_by_role("button", name="Submit current annotation")

    @property
    def toggle(self) -> Locator:
        return self.page.get_by_test_id("bottombar-auto-annotation-toggle")
