"""A whole project in real Label Studio: predictions for all tasks, and configurations of many kinds.

The pictures of the last run are in artifacts/project.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from demo import samples
from demo.environment import ROOT
from demo.label_studio import START_TIMEOUT_S, LabelStudio
from demo.services import Service
from demo.stack import BACKEND_TIMEOUT_S, MODEL_TIMEOUT_S, Ports, Stack
from support.browser import chromium_path
from support.label_studio import LOAD_TIMEOUT_MS, Editor, browser_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
PICTURES = ROOT / "artifacts" / "project"
TEMPLATE = (ROOT / "label_config" / "templates" / "interactive.xml").read_text("utf-8")
LABELS = '<Label value="Book" background="#e69f00"/><Label value="Cup" background="#009e73"/>'
MASKS = re.compile(r"<BrushLabels.*?</BrushLabels>", re.DOTALL)
TABLE, CUP = samples.PROVED, samples.FOLDER / "coffee.jpg"


@dataclass
class Site:
    """Label Studio, the backend and a worker; the worker starts with the first test that needs masks."""

    stack: Stack
    backend: Service
    api: httpx.Client
    worker: Service | None = None

    @property
    def label_studio(self) -> LabelStudio:
        return self.stack.label_studio

    def start_worker(self) -> None:
        if self.worker is None:
            self.worker = self.stack.start_worker()
            self.worker.wait_until(lambda: self.stack.model_version() is not None, MODEL_TIMEOUT_S)

    def kill_backend(self) -> None:
        os.killpg(self.backend.process.pid, signal.SIGKILL)
        self.backend.process.wait()

    def start_backend(self) -> None:
        self.backend = self.stack.start_backend()
        self.backend.wait_until(self.stack.backend_is_up, BACKEND_TIMEOUT_S)

    def new(self, title: str, label_config: str) -> int:
        """A project without tasks and backend."""
        created = self.api.post("/api/projects/", json={"title": title, "label_config": label_config})
        created.raise_for_status()
        return int(created.json()["id"])

    def project(self, title: str, label_config: str, tasks: list[dict[str, Any]]) -> int:
        """A connected project with these tasks."""
        number = self.new(title, label_config)
        self.api.post(f"/api/projects/{number}/import", json=tasks).raise_for_status()
        self.label_studio.attach(number, self.stack.backend_url)
        return number

    def prelabel(self, project: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "backend", "prelabel", "--project", str(project), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.stack.environment(), capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    chromium_path()
    stack = Stack(tmp_path_factory.mktemp("stack"), Ports(0, 0), BATCH_WAIT_S="0")
    try:
        stack.start_redis()
        label_studio, backend = stack.start_label_studio(), stack.start_backend()
        label_studio.wait_until(stack.label_studio.is_up, START_TIMEOUT_S)
        backend.wait_until(stack.backend_is_up, BACKEND_TIMEOUT_S)
        headers = {"Authorization": f"Token {stack.label_studio.token}"}
        with httpx.Client(
            base_url=stack.label_studio.url, headers=headers, timeout=120, trust_env=False
        ) as api:
            yield Site(stack, backend, api)
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    """Addresses of pictures by name; Label Studio takes no AVIF files, so they hold their content."""
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(TABLE) as table:
        width, height = table.size
        assert width != height
        return {
            "table.jpg": data_url(TABLE.read_bytes(), "jpeg"),
            "cup.jpg": data_url(CUP.read_bytes(), "jpeg"),
            "table.avif": encoded(table, "AVIF"),
            "turned.webp": encoded(table, "WEBP", exif=turned),
            "turned.jpg": encoded(table.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned),
        }


def encoded(image: Image.Image, format: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, format, quality=90, **options)
    return data_url(file.getvalue(), format.lower())


def data_url(data: bytes, format: str) -> str:
    return f"data:image/{format};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def editors(site: Site) -> Iterator[Editor]:
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    with browser_page(chromium_path()) as page:
        editor = Editor(page, site.label_studio, 0, PICTURES)
        editor.log_in()
        yield editor


def test_what_is_retrieved_survives_a_killed_backend_and_can_be_watched(site: Site) -> None:
    project = site.label_studio.create_project("Retrieve", TEMPLATE, samples.images())
    site.label_studio.attach(project, site.stack.backend_url)
    tasks = [task["id"] for task in site.label_studio.tasks(project)]
    retrieved = site.api.post(
        "/api/dm/actions",
        params={"id": "retrieve_tasks_predictions", "project": project},
        json={"selectedItems": {"all": True, "excluded": []}},
    )
    assert retrieved.is_success, retrieved.text
    site.kill_backend()
    assert all(site.api.get("/api/predictions/", params={"task": task}).json() == [] for task in tasks)
    site.start_backend()
    site.start_worker()
    watched = site.prelabel(project, "--watch")
    assert watched.returncode == 0, watched.stderr
    assert f"{len(tasks)} of {len(tasks)} tasks have a prediction by pixellm-mini-" in watched.stdout
    for task in tasks:
        assert len(site.api.get("/api/predictions/", params={"task": task}).json()) == 1

    view = site.api.post("/api/dm/views/", json={"project": project, "data": only(tasks[:2])}).json()["id"]
    asked = site.prelabel(project, "--view", str(view), "--prompt", "the cup")
    assert asked.returncode == 0, asked.stderr
    done = re.search(r"(\d+) predicted, (\d+) with nothing found, 0 skipped, 0 failed", asked.stdout)
    assert done and int(done[1]) + int(done[2]) == 2
    missing = site.prelabel(project, "--view", "999999")
    assert missing.returncode == 2 and f"Project {project} has no view 999999" in missing.stderr


def only(tasks: list[int]) -> dict[str, Any]:
    """A view of the Data Manager with these tasks."""
    items = [
        {"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": task} for task in tasks
    ]
    return {"title": "Some", "type": "list", "filters": {"conjunction": "or", "items": items}}


def test_connect_model_says_why_a_configuration_cannot_be_used(site: Site, editors: Editor) -> None:
    choices = '<Choices name="light" toName="image"><Choice value="Dark"/></Choices>'
    xml = f'<View><Image name="image" value="$image"/>{choices}</View>'
    project = site.new("Choices", xml)
    page = editors.page
    page.goto(f"{site.label_studio.url}/projects/{project}/settings/ml")
    page.get_by_role("button", name="Add machine learning model").click()
    page.locator("input[name=title]").fill("PixelLM")
    page.locator("input[name=url]").fill(site.stack.backend_url)
    page.get_by_role("button", name="Save machine learning form").click()
    reason = page.get_by_text("has nowhere to put masks; add [BrushLabels")
    expect(reason.first).to_be_visible(timeout=LOAD_TIMEOUT_MS)
    editors.shot("connect_model")


def controls(replacement: str) -> str:
    return MASKS.sub(replacement, TEMPLATE)


@pytest.mark.parametrize(
    ("name", "label_config", "data", "types"),
    [
        (
            "labels_and_brush",
            controls(
                f'<Labels name="kinds" toName="image">{LABELS}</Labels><Brush name="mask" toName="image"/>'
            ),
            {},
            ["brush", "labels", "brush", "labels"],
        ),
        (
            "labels_of_each_task",
            controls('<BrushLabels name="mask" toName="image" value="$kinds"/>'),
            {"kinds": [{"value": "Book", "background": "#e69f00"}, {"value": "Cup"}]},
            ["brushlabels", "brushlabels"],
        ),
    ],
)
def test_labels_beside_the_brush_and_in_the_task(
    site: Site,
    editors: Editor,
    pictures: dict[str, str],
    name: str,
    label_config: str,
    data: dict[str, Any],
    types: list[str],
) -> None:
    site.start_worker()
    project = site.project(name, label_config, [{"image": pictures["table.jpg"], **data}])
    (task,) = site.label_studio.tasks(project)
    editor = Editor(editors.page, site.label_studio, project, PICTURES)
    editor.open(task["id"])
    editor.ask("the book and the cup")
    editor.accept_all(2)
    editor.shot(name)
    assert sorted(editor.regions()) == ["Book", "Cup"]
    editor.submit()
    (annotation,) = site.label_studio.annotations(task["id"])
    regions = [item for item in annotation["result"] if item["type"] != "textarea"]
    assert [item["type"] for item in regions] == types
    labels = [item["value"].get(item["type"]) for item in regions if item["type"].endswith("labels")]
    assert sorted(label for (label,) in labels) == ["Book", "Cup"]


def test_of_several_images_the_one_in_view_is_asked_about(
    site: Site, editors: Editor, pictures: dict[str, str]
) -> None:
    site.start_worker()
    xml = TEMPLATE.replace('value="$image"', 'valueList="$pages"')
    xml = re.sub(r'<TextArea name="(prompt|answer)"', r'<TextArea perItem="true" name="\1"', xml)
    project = site.project("Pages", xml, [{"pages": [pictures["table.jpg"], pictures["cup.jpg"]]}])
    (task,) = site.label_studio.tasks(project)
    editor = Editor(editors.page, site.label_studio, project, PICTURES)
    editor.open(task["id"])
    first = editor.ask("the book")
    assert {item["item_index"] for item in first} == {0}
    editor.accept_all(1)
    editors.page.get_by_role("button", name="Next page").or_(
        editors.page.locator(".lsf-pagination__btn_arrow-right")
    ).first.click()
    editor.shot("second_page")
    with Image.open(CUP) as image:
        size = image.size
    second = [item for item in editor.ask("the cup") if item["type"] == "brushlabels"]
    editor.shot("second_page_answered")
    assert [item["item_index"] for item in second] == [1]
    assert (second[0]["original_width"], second[0]["original_height"]) == size


@pytest.mark.parametrize("name", ["table.avif", "turned.webp", "turned.jpg"])
def test_masks_are_of_the_size_that_the_browser_shows(
    site: Site, editors: Editor, pictures: dict[str, str], name: str
) -> None:
    site.start_worker()
    project = site.project(name, TEMPLATE, [{"image": pictures[name]}])
    (task,) = site.label_studio.tasks(project)
    editor = Editor(editors.page, site.label_studio, project, PICTURES)
    editor.open(task["id"])
    (mask,) = [item for item in editor.ask("the book") if item["type"] == "brushlabels"]
    editor.shot(name)
    shown = editors.page.evaluate(
        "() => [...document.images].filter((image) => image.naturalWidth > 300)"
        ".map((image) => [image.naturalWidth, image.naturalHeight])"
    )
    assert [mask["original_width"], mask["original_height"]] in shown
