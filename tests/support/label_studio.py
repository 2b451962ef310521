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
WINDOW = ViewportSize(width=1400, height=1000)
# The model's first prompt on a busy machine; Label Studio itself gives up after 100 s.
ANSWER_TIMEOUT_MS = 100_000
LOAD_TIMEOUT_MS = 60_000


@contextmanager
def browser_page(executable: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(LOAD_TIMEOUT_MS)
        yield page
        browser.close()


class Editor:
    """The labeling screen of one project; each `shot` is a numbered picture in `pictures`."""

    def __init__(self, page: Page, label_studio: LabelStudio, project: int, pictures: Path) -> None:
        self._page = page
        self._label_studio = label_studio
        self._project = project
        self._pictures = pictures
        self._shots = 0

    def log_in(self) -> None:
        self._page.goto(f"{self._label_studio.url}/user/login/")
        self._page.locator("input[name=email]").fill(self._label_studio.user)
        self._page.locator("input[name=password]").fill(self._label_studio.password)
        self.shot("login")
        self._page.locator("button[type=submit]").click()
        self._page.wait_for_url(lambda url: "/login" not in url)

    def open(self, task: int) -> None:
        """Opens `task`, which nobody has prompted yet."""
        self._page.goto(f"{self._label_studio.url}/projects/{self._project}/data?task={task}")
        expect(self._prompt).to_be_editable(timeout=LOAD_TIMEOUT_MS)
        self._page.wait_for_load_state("networkidle")

    def ask(self, prompt: str) -> list[dict[str, Any]]:
        """Types `prompt`, presses Enter and returns the results that the editor is given."""
        self._prompt.fill(prompt)
        with self._page.expect_response("**/interactive-annotating", timeout=ANSWER_TIMEOUT_MS) as answered:
            self._prompt.press("Enter")
        return answered.value.json()["data"]["result"]

    def answer(self) -> str:
        """What stands in the answer box."""
        box = self._page.locator("[name^='answer:']")
        expect(box.first).to_be_visible()
        return "\n".join(box.all_inner_texts())

    def accept_all(self, count: int) -> None:
        """Accepts the `count` masks that are suggested."""
        self._page.get_by_test_id("bottombar-auto-annotation-toggle").check(force=True)
        expect(self._page.get_by_text(f"{count} suggestion")).to_be_visible()
        self.shot("suggestions")
        accept = self._page.locator(".lsf-auto-accept__action_type_accept")
        accept.click()
        expect(accept).to_be_hidden()
        self.shot("accepted")

    def submit(self) -> None:
        with self._page.expect_response("**/annotations?**") as saved:
            self._page.get_by_role("button", name="Submit current annotation").click()
        assert saved.value.ok
        expect(self._page.get_by_role("button").filter(has_text="Update")).to_be_visible()
        self.shot("submitted")

    def shot(self, name: str) -> None:
        self._shots += 1
        self._page.screenshot(path=self._pictures / f"{self._shots:02}_{name}.png")

    @property
    def _prompt(self) -> Locator:
        return self._page.locator("input[name=prompt]")
