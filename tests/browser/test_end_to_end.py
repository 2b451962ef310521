"""The product as an annotator meets it: real Label Studio, real queue, real model, a real browser.

The pictures of the last run are in artifacts/screenshots.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from backend.label_studio.brush_rle import decode
from demo import samples
from demo.environment import ROOT
from demo.label_studio import LabelStudio
from demo.stack import Ports, Stack
from support.browser import chromium_path
from support.label_studio import Editor, browser_page
from worker.jobs.contract import MAX_PROMPT_CHARS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
PICTURES = ROOT / "artifacts" / "screenshots"
TEMPLATE = ROOT / "label_config" / "templates" / "interactive.xml"


@dataclass(frozen=True)
class Project:
    """A project with the sample images, attached to the backend."""

    stack: Stack
    label_studio: LabelStudio
    id: int

    def task(self, image: Path) -> int:
        return self.label_studio.task_of(self.id, image)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    chromium_path()
    stack = Stack(tmp_path_factory.mktemp("stack"), Ports(0, 0))
    try:
        stack.start()
        label_studio = stack.label_studio
        project = label_studio.create_project("End to end", TEMPLATE.read_text(), samples.images())
        label_studio.attach(project, stack.backend_url)
        yield Project(stack, label_studio, project)
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def editor(project: Project) -> Iterator[Editor]:
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    with browser_page(chromium_path()) as page:
        editor = Editor(page, project.label_studio, project.id, PICTURES)
        editor.log_in()
        yield editor


def test_a_prompt_becomes_masks_that_are_accepted_and_submitted(project: Project, editor: Editor) -> None:
    task = project.task(samples.PROVED)
    editor.open(task)
    editor.shot("opened")
    proposed = editor.ask(samples.PROMPT)
    editor.shot("answered")
    masks = [region for region in proposed if region["type"] == "brushlabels"]
    answer = editor.answer()
    assert masks and answer
    editor.accept_all(len(masks))
    editor.submit()

    (annotation,) = project.label_studio.annotations(task)
    submitted = {region["id"]: region for region in annotation["result"]}
    with Image.open(samples.PROVED) as image:
        width, height = image.size
    for region in masks:
        kept = submitted[region["id"]]
        assert kept["value"]["brushlabels"] == region["value"]["brushlabels"]
        assert (kept["original_width"], kept["original_height"]) == (width, height)
        mask = decode(kept["value"]["rle"], height, width)
        assert mask.shape == (height, width) and 0 < mask.mean() < 1
        assert 0 < kept["score"] <= 1
        assert kept["meta"]["text"] == region["meta"]["text"]
        assert kept["meta"]["pixellm"]["prompt"] == samples.PROMPT
    texts = {
        region["from_name"]: region["value"]["text"]
        for region in submitted.values()
        if region["type"] == "textarea"
    }
    assert texts == {"prompt": [samples.PROMPT], "answer": [answer]}


def test_a_prompt_that_is_refused_is_answered_in_words(project: Project, editor: Editor) -> None:
    editor.open(project.task(samples.FOLDER / "coffee.jpg"))
    editor.ask("cup " * MAX_PROMPT_CHARS)
    editor.shot("refused")
    assert f"shorten it to {MAX_PROMPT_CHARS}" in editor.answer()


def test_without_a_worker_the_answer_box_says_so(project: Project, editor: Editor) -> None:
    project.stack.stop_worker()
    editor.open(project.task(samples.FOLDER / "rocket.jpg"))
    editor.ask("the rocket")
    editor.shot("no_worker")
    assert "No worker is running" in editor.answer()
