"""An annotator's first minutes, as seen on a laptop's and on a desktop's screen.

The pictures of the last run are in artifacts/annotating.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from backend.label_studio.brush_rle import decode
from demo import samples
from demo.environment import ROOT
from demo.label_studio import LabelStudio
from demo.stack import Ports, Stack
from support.browser import chromium_path
from support.label_studio import DESKTOP, LAPTOP, Editor, browser_page

pytestmark = pytest.mark.browser
PICTURES = ROOT / "artifacts" / "annotating"
TEMPLATE = ROOT / "label_config" / "templates" / "interactive.xml"
# Where each thing lies on the rendered table, as shares of width and height: left, top, right, bottom.
PLACES = {
    "apple": (0.62, 0.40, 0.84, 0.78),
    "book": (0.36, 0.48, 0.62, 0.96),
    "banana": (0.72, 0.62, 0.97, 1.0),
}


@dataclass(frozen=True)
class Project:
    """A project with the sample images, attached to the backend."""

    label_studio: LabelStudio
    id: int

    def task(self, image: Path) -> int:
        return self.label_studio.task_of(self.id, image)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    chromium_path()
    stack = Stack(tmp_path_factory.mktemp("stack"), Ports(0, 0))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def project(stack: Stack) -> Project:
    label_studio = stack.label_studio
    number = label_studio.create_project("Annotating", TEMPLATE.read_text(), samples.images())
    label_studio.attach(number, stack.backend_url)
    return Project(label_studio, number)


@pytest.fixture(params=[LAPTOP, DESKTOP], ids=["1280x720", "1400x900"])
def editor(request: pytest.FixtureRequest, project: Project) -> Iterator[Editor]:
    width, height = request.param
    pictures = PICTURES / f"{request.node.originalname}-{width}x{height}"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    with browser_page(chromium_path(), (width, height)) as page:
        editor = Editor(page, project.label_studio, project.id, pictures)
        editor.log_in()
        yield editor


def test_three_things_asked_in_turn_and_accepted_one_by_one(project: Project, editor: Editor) -> None:
    task = project.task(samples.PROVED)
    editor.open(task)
    for number, thing in enumerate(PLACES, start=1):
        proposed = [item for item in editor.ask(f"the {thing}") if item["type"] == "brushlabels"]
        assert len(proposed) == 1, f"{thing}: {editor.answer()}"
        assert f"{thing} is [1]" in editor.answer()
        editor.accept_all(1)
        expect(editor.page.locator(".lsf-outliner-item__title")).to_have_count(number)
        time.sleep(6)  # Label Studio saves a draft after five seconds, and sends it with the next prompt
    editor.submit()

    (annotation,) = project.label_studio.annotations(task)
    masks = [item for item in annotation["result"] if item["type"] == "brushlabels"]
    with Image.open(samples.PROVED) as image:
        width, height = image.size
    for item, (thing, place) in zip(masks, PLACES.items(), strict=True):
        rows, columns = np.nonzero(decode(item["value"]["rle"], height, width))
        left, top, right, bottom = place
        inside = (columns > left * width) & (columns < right * width)
        inside &= (rows > top * height) & (rows < bottom * height)
        assert inside.mean() > 0.5, f"{thing} lies elsewhere"
    assert [item["value"]["brushlabels"][0] for item in masks] == ["Other", "Book", "Other"]


def test_what_was_rejected_is_denied_by_choice(project: Project, editor: Editor) -> None:
    """The choice below the labels is submitted with the annotation, and asks nothing of the model."""
    task = project.task(samples.PROVED)
    editor.open(task)
    editor.ask("the book")
    editor.reject_all()
    asked: list[str] = []
    editor.page.on("request", lambda request: asked.append(request.url))
    editor.page.get_by_text("Nothing more to mark").click()
    editor.shot("chosen")
    time.sleep(1)
    assert not [url for url in asked if "interactive-annotating" in url]
    with editor.page.expect_response("**/annotations?**") as saved:
        editor.click_submit()
    assert saved.value.ok
    (annotation,) = project.label_studio.annotations(task)
    (choice,) = [item for item in annotation["result"] if item["type"] == "choices"]
    assert (choice["from_name"], choice["value"]["choices"]) == ("nothing_else", ["Nothing more to mark"])
    assert not [item for item in annotation["result"] if item["type"] == "brushlabels"]


def test_the_same_prompt_asked_again_is_answered_again(project: Project, editor: Editor) -> None:
    editor.open(project.task(samples.PROVED))
    first = editor.ask("the book")
    editor.reject_all()
    again = editor.ask("the book")
    assert [item["id"] for item in again if item["type"] == "brushlabels"] == [
        item["id"] for item in first if item["type"] == "brushlabels"
    ]
    editor.accept_all(1)
    editor.page.reload()
    expect(editor.prompt).to_be_editable()
    editor.page.wait_for_load_state("networkidle")
    assert [item["type"] for item in editor.ask("the book")].count("brushlabels") == 1
    editor.shot("asked_after_reload")


def test_submit_waits_while_proposed_masks_wait(project: Project, editor: Editor) -> None:
    task = project.task(samples.PROVED)
    editor.open(task)
    editor.ask("the cup and the book")
    expect(editor.note("pending")).to_be_visible()
    editor.shot("pending")
    editor.click_submit()
    time.sleep(2)
    assert project.label_studio.annotations(task) == [], "masks that wait must not be lost"
    editor.accept_all(2)
    expect(editor.note("pending")).to_be_hidden()
    editor.submit()
    (annotation,) = project.label_studio.annotations(task)
    assert [item["type"] for item in annotation["result"]].count("brushlabels") == 2
    editor.ask("the teapot")
    expect(editor.page.get_by_role("button").filter(has_text="Update")).to_have_css("pointer-events", "none")
    editor.shot("update_waits")


def test_the_page_says_that_auto_annotation_is_off(project: Project, editor: Editor) -> None:
    editor.visit(project.task(samples.FOLDER / "cat.jpg"))
    expect(editor.note("off")).to_be_visible()
    editor.shot("off")
    editor.switch_on()
    expect(editor.note("off")).to_be_hidden()
    assert editor.ask("the cat")
    editor.accept_all(1)


@pytest.mark.parametrize("image", ["cat.jpg", "coffee.jpg", "astronaut.jpg"])
def test_prompt_and_answer_are_seen_above_the_image(project: Project, editor: Editor, image: str) -> None:
    """Landscape and square pictures: prompt, answer, and the whole image on one screen."""
    editor.open(project.task(samples.FOLDER / image))
    editor.ask("the cup and the person")
    editor.shot("answered")
    viewport = editor.page.viewport_size
    prompt, answer = editor.prompt.bounding_box(), editor.answer_box.first.bounding_box()
    picture = editor.page.locator("canvas").first.bounding_box()
    assert viewport and prompt and answer and picture
    assert 0 < prompt["y"] < answer["y"] < picture["y"] < viewport["height"] / 2
    bar = editor.toggle.locator("xpath=ancestor::*[contains(@class, 'bottombar')][last()]").bounding_box()
    assert bar
    assert picture["y"] + picture["height"] <= bar["y"], "the image reaches below the screen"


def test_a_question_under_way_hides_the_old_answer(project: Project, editor: Editor) -> None:
    editor.open(project.task(samples.PROVED))
    editor.ask("the book")
    editor.reject_all()
    old = editor.answer()

    def delayed(route: Route) -> None:
        time.sleep(2)
        route.continue_()

    editor.page.route("**/interactive-annotating", delayed)
    editor.prompt.fill("the banana")
    editor.prompt.press("Enter")
    expect(editor.note("asking")).to_be_visible()
    expect(editor.answer_box.first).to_be_hidden()
    editor.shot("asking")
    expect(editor.note("asking")).to_be_hidden(timeout=20_000)
    assert editor.answer() != old


def test_a_mask_is_begun_and_corrected_by_pointing(project: Project, editor: Editor) -> None:
    """A click begins the apple; one with Ctrl and Alt takes away from it, under the same id."""
    task = project.task(samples.PROVED)
    editor.open(task)
    editor.auto_detect()
    begun = [item for item in editor.point(0.73, 0.62) if item["type"] == "brushlabels"]
    editor.shot("begun")
    assert len(begun) == 1
    with Image.open(samples.PROVED) as image:
        width, height = image.size
    mask = decode(begun[0]["value"]["rle"], height, width)
    assert mask[round(0.62 * height), round(0.73 * width)]
    editor.accept_all(1)
    time.sleep(6)
    corrected = [item for item in editor.point(0.73, 0.62, "Control", "Alt") if item["type"] == "brushlabels"]
    if corrected:  # else nothing is left of the mask
        assert corrected[0]["id"] == begun[0]["id"]
        mask = decode(corrected[0]["value"]["rle"], height, width)
        assert not mask[round(0.62 * height), round(0.73 * width)]
    editor.shot("corrected")
    assert editor.answer()


def area_of(item: dict[str, Any], image: Path) -> int:
    with Image.open(image) as picture:
        width, height = picture.size
    return int(decode(item["value"]["rle"], height, width).sum())


def test_words_change_the_mask_that_was_shown_last(project: Project, editor: Editor) -> None:
    """Tighter twice, before and after accepting; what cannot be done is said."""
    task = project.task(samples.PROVED)
    editor.open(task)
    (book,) = [item for item in editor.ask("the book") if item["type"] == "brushlabels"]
    editor.accept_all(1)
    time.sleep(6)
    (tighter,) = [item for item in editor.ask("tighter") if item["type"] == "brushlabels"]
    editor.shot("tighter")
    assert tighter["id"] == book["id"] and "is tighter now" in editor.answer()
    (again,) = [item for item in editor.ask("even tighter") if item["type"] == "brushlabels"]
    areas = [area_of(item, samples.PROVED) for item in (book, tighter, again)]
    assert areas == sorted(areas, reverse=True) and len(set(areas)) == 3
    editor.accept_all(1)
    expect(editor.page.locator(".lsf-outliner-item__title")).to_have_count(1)
    time.sleep(6)  # a mask that is not in the draft yet would be proposed again, in case it still waits
    assert editor.ask("without the banana") and "nothing was changed" in editor.answer().lower()
    editor.shot("refused")
    editor.submit()
    (annotation,) = project.label_studio.annotations(task)
    (mask,) = [item for item in annotation["result"] if item["type"] == "brushlabels"]
    assert area_of(mask, samples.PROVED) == areas[-1] and mask["value"]["brushlabels"] == ["Book"]


def test_of_the_masks_that_wait_only_the_chosen_one_stays(project: Project, editor: Editor) -> None:
    task = project.task(samples.PROVED)
    editor.open(task)
    both = [item for item in editor.ask("the cup and the book") if item["type"] == "brushlabels"]
    assert len(both) == 2
    chosen = [item for item in editor.ask("only the left one") if item["type"] == "brushlabels"]
    editor.shot("chosen")
    assert [item["id"] for item in chosen] == [both[0]["id"]] and "cup" in editor.answer()
    editor.accept_all(1)
    editor.submit()
    (annotation,) = project.label_studio.annotations(task)
    masks = [item for item in annotation["result"] if item["type"] == "brushlabels"]
    assert [item["value"]["brushlabels"] for item in masks] == [["Cup"]]
