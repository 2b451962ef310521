"""`python -m backend prelabel` with a real Redis, a worker process and an HTTP server as Label Studio."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from backend.__main__ import main
from backend.settings import BackendSettings
from support.image_server import ImageServer, reply, running_server
from support.label_studio_api import PROJECT, LabelStudioApi
from support.workers import ROOT, Workers, data_url, eventually, png, question
from worker.store import Database
from worker.store.tables import Proposal

VERSION = "stand-in-1"
NO_ANSWER = (
    '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">'
    '<Label value="Circle" background="#ff00cc"/><Label value="Square"/></BrushLabels></View>'
)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running_server() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(
    redis_url: str, server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    values = {
        "REDIS_URL": redis_url,
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": "a-legacy-token",
        "DATA_DIR": str(tmp_path / "data"),
        "LOG_LEVEL": "WARNING",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("backend.prelabelling.patience.PAUSES_S", (0.1,))
    monkeypatch.setattr("backend.prelabelling.asker.RETRY_PAUSE_S", 0.2)
    return values


def tasks(count: int, **data: Any) -> list[dict[str, Any]]:
    return [{"id": number, "data": {"image": data_url(8 + number)} | data} for number in range(1, count + 1)]


def prelabel(*arguments: str) -> int:
    return main(["prelabel", "--project", PROJECT, *arguments])


def labels(prediction: dict[str, Any]) -> list[list[str]]:
    return [item["value"]["brushlabels"] for item in prediction["result"] if item["type"] == "brushlabels"]


@pytest.mark.parametrize("count", [50, 100])
def test_all_tasks_are_predicted_once_and_the_project_names_the_version(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    api = LabelStudioApi(server, tasks(count))
    workers.start("patient")
    assert prelabel("--prompt", "the circle") == 0
    assert (
        f"Project 12: {count} predicted, 0 with nothing found, 0 skipped, 0 failed."
        in capsys.readouterr().out
    )
    assert [len(api.predictions(task["id"])) for task in api.tasks] == [1] * count
    assert labels(api.stored[1]) == [["Circle"]] and api.stored[1]["model_version"] == VERSION
    assert api.model_version == VERSION

    # The same command again asks and stores nothing.
    seen, writes = len(workers.seen()), len(api.writes())
    assert prelabel("--prompt", "the circle") == 0
    assert f"0 predicted, 0 with nothing found, {count} skipped, 0 failed." in capsys.readouterr().out
    assert (len(workers.seen()), len(api.writes())) == (seen, writes)


def test_by_default_every_label_is_asked_for_and_a_task_s_own_prompt_comes_first(
    server: ImageServer, workers: Workers
) -> None:
    api = LabelStudioApi(server, tasks(2))
    api.tasks[1]["data"]["prompt"] = "the square"
    workers.start("patient")
    assert prelabel() == 0
    assert sorted(workers.seen()) == [
        "Segment the circle, the square and the triangle in this image.",
        "the square",
    ]
    assert prelabel("--labels") == 0 and len(workers.seen()) == 2
    assert len(api.stored) == 2


def test_a_control_s_own_threshold_hides_and_is_recorded(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    config = NO_ANSWER.replace('name="mask"', 'name="mask" model_score_threshold="0.8"')
    api = LabelStudioApi(server, tasks(1), config=config)
    workers.start("patient")
    for skipped in (0, 1):
        assert prelabel("--prompt", "the circle") == 0
        assert f"{1 - skipped} with nothing found, {skipped} skipped" in capsys.readouterr().out
    assert [labels(prediction) for prediction in api.stored.values()] == [[]]
    database = Database(BackendSettings(data_dir=Path(environment["DATA_DIR"])))
    with database.session() as session:
        (proposal,) = session.scalars(select(Proposal))
    assert [target["hidden"] for target in proposal.targets] == [True]


def test_another_prompt_replaces_and_again_asks_the_same(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(3))
    workers.start("patient")
    assert prelabel("--prompt", "the circle", "--limit", "2") == 0
    assert len(api.stored) == 2
    assert prelabel("--prompt", "the circle", "--limit", "2") == 0  # goes on with those that are left
    assert len(api.stored) == 3 and "1 predicted, 0 with nothing found, 2 skipped" in capsys.readouterr().out
    assert prelabel("--prompt", "the square") == 0
    assert [labels(prediction) for prediction in api.stored.values()] == [[["Square"]]] * 3
    for prediction in api.stored.values():
        prediction["score"] = -1
    assert prelabel("--prompt", "the square", "--again", "--limit", "2") == 0
    assert sorted(prediction["score"] for prediction in api.stored.values()) == [-1, 0.75, 0.75]


def test_a_view_chooses_the_tasks(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(5))
    api.views = {"7": [2, 4]}
    workers.start("patient")
    assert prelabel("--prompt", "the circle", "--view", "7") == 0
    assert "2 predicted" in capsys.readouterr().out
    assert sorted(prediction["task"] for prediction in api.stored.values()) == [2, 4]
    assert prelabel("--watch", "--view", "7") == 0
    assert f"2 of 2 tasks have a prediction by {VERSION}." in capsys.readouterr().out
    assert prelabel("--view", "8") == 2
    assert 'Project 12 has no view 8 (--view); its number is "tab"' in capsys.readouterr().err


def test_watching_counts_what_others_ask_for_and_ends(
    server: ImageServer,
    workers: Workers,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backend.prelabelling.watch.POLL_S", 0.1)
    monkeypatch.setattr("backend.prelabelling.watch.IDLE_S", 1.0)
    api = LabelStudioApi(server, tasks(4))
    api.tasks[3] |= {"annotations": [{"id": 1, "result": []}]}
    workers.start("patient")
    assert prelabel("--prompt", "the circle", "--limit", "1") == 0
    capsys.readouterr()
    assert prelabel("--watch") == 1
    printed = capsys.readouterr().out
    assert f"1 of 4 tasks have a prediction by {VERSION}." in printed and "backend's log" in printed
    writes = len(api.writes())

    # What the queue still holds is waited for.
    statuses: list[int] = []
    workers.queue.enqueue(question("sleep 3", "batch"))
    watching = threading.Thread(target=lambda: statuses.append(prelabel("--watch", "--only-unlabelled")))
    watching.start()
    time.sleep(2)
    assert not statuses
    for task in (2, 3):
        api.stored[100 + task] = {"task": task, "model_version": VERSION, "result": []}
    watching.join()
    assert statuses == [0] and len(api.writes()) == writes
    assert f"3 of 3 tasks have a prediction by {VERSION}." in capsys.readouterr().out


@pytest.mark.parametrize("config", [None, NO_ANSWER])
def test_nothing_found_is_stored_and_not_asked_again(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str], config: str | None
) -> None:
    api = LabelStudioApi(server, tasks(2), **({"config": config} if config else {}))
    workers.start("patient")
    assert prelabel("--prompt", "nothing at all") == 0
    assert "0 predicted, 2 with nothing found" in capsys.readouterr().out
    assert [labels(prediction) for prediction in api.stored.values()] == [[], []]
    assert {prediction["score"] for prediction in api.stored.values()} == {0.0}
    assert prelabel("--prompt", "nothing at all") == 0
    assert "2 skipped" in capsys.readouterr().out and len(workers.seen()) == 2
    # The same answer again does not make a second empty prediction.
    assert prelabel("--prompt", "nothing at all", "--again") == 0
    assert len(api.stored) == 2
    assert prelabel("--prompt", "the circle") == 0
    assert [labels(prediction) for prediction in api.stored.values()] == [[["Circle"]]] * 2


def test_predictions_of_a_batch_count(server: ImageServer, workers: Workers) -> None:
    api = LabelStudioApi(server, tasks(1))
    workers.start("patient")
    assert prelabel("--prompt", "the circle") == 0
    (item, *_) = api.stored[1]["result"]
    del item["meta"]["pixellm"]["asked"]
    assert prelabel("--prompt", "the circle") == 0
    assert len(api.stored) == 1 and len(workers.seen()) == 1


def test_an_ontology_names_the_labels(server: ImageServer, workers: Workers, tmp_path: Path) -> None:
    api = LabelStudioApi(server, tasks(2))
    workers.start("patient")
    ontology = tmp_path / "ontology.json"
    ontology.write_text(json.dumps({"round things": "Circle", "nothing": "Triangle", "boxes": "Square"}))
    assert prelabel("--ontology", str(ontology)) == 0
    assert sorted(set(workers.seen())) == ["boxes", "nothing", "round things"]
    for task in api.tasks:
        (prediction,) = api.predictions(task["id"])
        assert labels(prediction) == [["Circle"], ["Square"]]
        first, second, answer = prediction["result"]
        assert [item["meta"]["pixellm"]["label"] for item in (first, second)] == ["Circle", "Square"]
        assert first["id"] != second["id"] and "There is none." in answer["value"]["text"][0]
        assert "No label of this project" not in answer["value"]["text"][0]
    assert prelabel("--ontology", str(ontology)) == 0 and len(api.stored) == 2
    ontology.write_text(json.dumps({"round things": "Triangle", "nothing": "Triangle", "boxes": "Square"}))
    assert prelabel("--ontology", str(ontology)) == 0 and len(api.stored) == 2
    assert labels(api.stored[1]) == [["Triangle"], ["Square"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--ontology", "missing.json"), "missing.json cannot be read: No such file or directory."),
        (("--prompt", " "), "The prompt (--prompt) is empty."),
        (("--watch", "--prompt", "the cup"), "--watch asks nothing"),
        (("--view", "first"), "--view first is no number of a view"),
        (("--out", "sheet.html"), "--out is the page of a preview; add --preview 12."),
        (("--preview", "2", "--out", "nowhere/sheet.html"), "nowhere is no folder that can be written to"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    server: ImageServer, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    api = LabelStudioApi(server, tasks(1))
    assert prelabel(*arguments) == 2
    assert sentence in capsys.readouterr().err and api.pages == []


def test_without_label_studio_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:1")
    assert prelabel() == 2
    assert "Label Studio (LABEL_STUDIO_URL) cannot be asked" in capsys.readouterr().err


def test_failures_are_counted_by_kind_and_do_not_stop_the_others(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(7))
    for number in (2, 4):
        api.tasks[number]["data"]["image"] = f"/data/upload/{number}.png"
    api.tasks[5]["data"] = {}
    api.on_store = lambda number: 400 if number == 1 else None
    workers.start("patient")
    assert prelabel("--prompt", "the circle") == 1
    shown = capsys.readouterr().out
    assert "3 predicted, 0 with nothing found, 0 skipped, 4 failed." in shown
    assert re.search(r"failed, 2 \(task 3, 5\): There is no image at .*HTTP 404", shown)
    assert "failed, 1 (task 6): This task has no image" in shown
    assert "HTTP 400 to POST /api/predictions/" in shown
    # What failed is asked again.
    api.on_store = lambda number: None
    server.routes["/data/upload/2.png"] = server.routes["/data/upload/4.png"] = reply(png(20, 20))
    api.tasks[5]["data"] = {"image": data_url()}
    assert prelabel("--prompt", "the circle") == 0
    assert "4 predicted, 0 with nothing found, 3 skipped, 0 failed." in capsys.readouterr().out


def test_a_refused_token_ends_the_run(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(100))
    api.on_store = lambda number: 403
    workers.start("patient")
    assert prelabel("--prompt", "the circle") == 2
    assert "LABEL_STUDIO_API_KEY may not do this" in capsys.readouterr().err and not api.stored


def test_label_studio_is_waited_for_and_no_prediction_is_stored_twice(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(60))
    page_failures, lost_responses = [503, 503, 500], {3: 502, 5: 502}
    api.on_page = lambda page: page_failures.pop() if page == 2 and page_failures else None
    api.on_store = lambda number: lost_responses.pop(number, None)
    workers.start("patient")
    assert prelabel("--prompt", "the circle") == 0
    assert [len(api.predictions(task["id"])) for task in api.tasks] == [1] * 60
    captured = capsys.readouterr()
    assert "60 predicted" in captured.out and not page_failures and not lost_responses
    assert "Waiting for it." in captured.err and "Label Studio answers again." in captured.err


def test_a_task_that_label_studio_always_fails_at_does_not_stop_the_others(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(5))
    api.on_prediction = lambda prediction: 500 if prediction["task"] == 2 else None
    workers.start("patient")
    assert prelabel("--prompt", "the circle") == 1
    shown = capsys.readouterr().out
    assert "4 predicted" in shown and "failed, 1 (task 2): Label Studio answered HTTP 500" in shown


def test_a_missing_worker_is_waited_for_with_a_message(
    server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(3))
    codes: list[int] = []
    running = threading.Thread(target=lambda: codes.append(prelabel("--prompt", "the circle")))
    running.start()
    shown = ""

    def is_waiting() -> bool:
        nonlocal shown
        shown += capsys.readouterr().err
        return "No worker is running" in shown

    eventually(is_waiting, "it says that no worker runs")
    workers.start("patient")
    running.join(60)
    assert codes == [0] and len(api.stored) == 3
    assert shown.count("No worker is running") == 1


def test_few_jobs_wait_at_once(
    server: ImageServer, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.prelabelling.run.MAX_TASKS_IN_PROGRESS", 5)
    monkeypatch.setattr("backend.prelabelling.asker.MAX_OUTSTANDING", 3)
    LabelStudioApi(server, tasks(20))
    workers.start("patient", WORKER_BATCH_SIZE="1")
    depths = []
    running = threading.Thread(target=prelabel, args=("--prompt", "sleep 0.1"))
    running.start()
    while running.is_alive():
        depth = workers.queue.depth()
        depths.append(depth.batch + depth.running)
        assert depth.interactive == 0
        time.sleep(0.02)
    assert 0 < max(depths) <= 3 and len(workers.seen()) == 20


def test_only_unlabelled(server: ImageServer, workers: Workers, capsys: pytest.CaptureFixture[str]) -> None:
    api = LabelStudioApi(server, tasks(3))
    api.tasks[1]["annotations"] = [{"id": 1}]
    workers.start("patient")
    assert prelabel("--only-unlabelled") == 0
    assert {prediction["task"] for prediction in api.stored.values()} == {1, 3}
    assert "skipped, 1: labelled already" in capsys.readouterr().out


def test_after_ctrl_c_the_same_command_goes_on(
    server: ImageServer, workers: Workers, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(30))
    workers.start("patient", WORKER_BATCH_SIZE="1")
    command = [sys.executable, "-m", "backend", "prelabel", "--project", PROJECT, "--prompt", "sleep 0.3"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        eventually(lambda: len(api.stored) >= 3, "three predictions are stored")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "the same command goes on" in err
    assert re.search(r"Project 12: \d+ predicted", out)
    before = len(api.stored)
    assert 3 <= before < 30
    assert prelabel("--prompt", "sleep 0.3") == 0
    assert [len(api.predictions(task["id"])) for task in api.tasks] == [1] * 30
    assert f"{30 - before} predicted, 0 with nothing found, {before} skipped" in capsys.readouterr().out


class Page(HTMLParser):
    """The images and texts of a contact sheet, and everything that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[Image.Image] = []
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action"):
                self.loaded.append(value or "")
        if tag == "img":
            head, _, data = (dict(attrs)["src"] or "").partition(",")
            assert head == "data:image/jpeg;base64"
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            image.load()
            self.images.append(image)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_a_preview_stores_nothing_and_draws_an_offline_page(
    server: ImageServer, workers: Workers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(60), NO_ANSWER)
    server.routes["/data/upload/photo.png"] = reply(png(1600, 1200))
    for task in api.tasks:
        task["data"]["image"] = "/data/upload/photo.png"
    workers.start("patient")
    sheet = tmp_path / "sheet.html"
    assert prelabel("--prompt", "the <b>circle", "--preview", "4", "--out", str(sheet)) == 0
    assert "4 tasks are drawn in" in capsys.readouterr().out
    assert api.stored == {} and api.writes() == []
    page = Page(sheet.read_text("utf-8"))
    assert page.open == [] and all(link.startswith("data:image/jpeg") for link in page.loaded)
    assert [image.size for image in page.images] == [(640, 480)] * 4
    assert [text for text in page.texts if text.startswith("Task ")] == [
        "Task 8",
        "Task 23",
        "Task 38",
        "Task 53",
    ]
    assert page.texts.count("Circle") == 4 and page.texts.count("0.75") == 4
    assert "the <b>circle" in page.texts and any("after 0 turns [1]" in text for text in page.texts)


def test_a_preview_shows_masks_in_the_labels_colours_and_what_failed(
    server: ImageServer, workers: Workers, tmp_path: Path
) -> None:
    api = LabelStudioApi(server, tasks(2), NO_ANSWER)
    server.routes["/data/upload/photo.png"] = reply(png(8, 6))
    api.tasks[0]["data"]["image"] = "/data/upload/photo.png"
    api.tasks[1]["data"]["image"] = "/data/upload/gone.png"
    workers.start("patient")
    sheet = tmp_path / "sheet.html"
    assert prelabel("--prompt", "the circle", "--preview", "12", "--out", str(sheet)) == 0
    page = Page(sheet.read_text("utf-8"))
    (image,) = page.images
    assert any(text.startswith("There is no image at") for text in page.texts)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert image.size == (8, 6)
    assert pixels[0, 0, 2] > 90 > pixels[5, 7, 2]  # the label's #ff00cc on red


FROM_TASK = (
    '<View><Image name="image" value="$image"/>'
    '<RectangleLabels name="box" toName="image" value="$classes"/></View>'
)


def test_labels_and_shapes_of_each_task(
    server: ImageServer, workers: Workers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = LabelStudioApi(server, tasks(2), FROM_TASK)
    api.tasks[0]["data"]["classes"] = [{"value": "Circle"}]
    workers.start("patient")
    assert prelabel("--preview", "2", "--out", str(tmp_path / "page.html")) == 0
    assert "no labels to ask for" in (tmp_path / "page.html").read_text()
    assert prelabel() == 1
    assert "1 predicted, 0 with nothing found, 0 skipped, 1 failed." in capsys.readouterr().out
    (region,) = api.stored[1]["result"]
    assert (region["type"], region["value"]["rectanglelabels"]) == ("rectanglelabels", ["Circle"])
