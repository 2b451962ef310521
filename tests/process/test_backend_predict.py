"""Predictions through the whole of backend, Redis and a worker process, as Label Studio asks for them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import redis

from backend.prompts.model_client import result_of
from backend.prompts.pending_store import CONFIGS, ENTRIES, LEASES
from support.backend import ask, batch, masks, payload, prompted, running_backend, said
from support.image_server import ImageServer, reply, running_server
from support.workers import ROOT, Workers, eventually
from worker.jobs.queue import JobState

NOWHERE = "redis://127.0.0.1:1/0"
NO_BRUSH = '<View><Image name="image" value="$image"/><TextArea name="answer" toName="image"/></View>'
NO_ANSWER = (
    '<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" smart="true"/>'
    '<BrushLabels name="mask" toName="image"><Label value="Circle"/></BrushLabels></View>'
)


@pytest.fixture
def backend(redis_url: str) -> Iterator[httpx.Client]:
    with running_backend(redis_url, predict_wait_s=20, batch_wait_s=20) as client:
        yield client


@pytest.fixture
def ready(workers: Workers) -> Workers:
    start(workers)
    return workers


def start(workers: Workers, kind: str = "patient") -> None:
    workers.start(kind)
    eventually(
        lambda: any(worker.state == "ready" for worker in workers.queue.worker_status()), "a worker is ready"
    )


class TestPrompt:
    @pytest.mark.parametrize(("setting", "tag", "shown"), [(0.8, None, 0), (0.8, 0.7, 1), (0.0, 0.8, 0)])
    def test_a_control_s_own_score_threshold_comes_before_the_setting(
        self, redis_url: str, ready: Workers, setting: float, tag: float | None, shown: int
    ) -> None:
        body = prompted("the circle")
        if tag is not None:
            body["label_config"] = body["label_config"].replace(
                "<BrushLabels ", f'<BrushLabels model_score_threshold="{tag}" '
            )
        with running_backend(redis_url, predict_wait_s=20, model_score_threshold=setting) as client:
            (prediction,) = ask(client, body)
        assert len(masks(prediction)) == shown
        assert ("1 left out with too low a score (0.75)." in said(prediction)) == (not shown)

    def test_regions_answer_score_and_version(self, backend: httpx.Client, ready: Workers) -> None:
        (prediction,) = ask(backend, prompted("the circle"))
        (mask,) = masks(prediction)
        assert mask["from_name"] == "mask" and mask["to_name"] == "image"
        assert mask["value"]["format"] == "rle" and mask["value"]["rle"]
        assert mask["value"]["brushlabels"] == ["Circle"]
        assert (mask["original_width"], mask["original_height"]) == (8, 6)
        assert mask["meta"]["pixellm"]["prompt"] == "the circle"
        assert said(prediction) == "the circle, after 0 turns [1] a warning"
        assert prediction["score"] == pytest.approx(0.75)
        assert prediction["model_version"] == "stand-in-1"

        # The same question is answered from the store.
        (again,) = ask(backend, prompted("the circle"))
        assert said(again) == said(prediction) and ready.seen() == ["the circle"]

        # The newest of several texts counts, and the answer control does not.
        body = payload("prompt_with_predictions")
        (newest,) = ask(backend, body)
        assert said(newest).startswith("segment the circle and the square, after")

        # The masks in the draft are the earlier turn.
        draft = {"result": [mask]}
        (second,) = ask(backend, prompted("only the square one", drafts=[draft]))
        assert said(second).startswith("only the square one, after 1 turns")

        # A prompt that names another thing stands alone.
        (other,) = ask(backend, prompted("the square", drafts=[draft]))
        assert said(other).startswith("the square, after 0 turns")

        # Drafts that are not ours are no turns.
        strange: list[Any] = [
            {"result": None},
            {"result": [3, {"meta": 3}, {"meta": {"pixellm": []}}]},
            {"result": [{"meta": {"pixellm": {"job": "seg-x", "prompt": "p"}}}]},
            {"result": [{"meta": {"pixellm": {"job": "seg-" + "0" * 32, "prompt": "\ud800"}}}]},
            {"result": [{"meta": {"pixellm": {"job": "seg-" + "0" * 32, "prompt": "forgotten"}}}]},
        ]
        (third,) = ask(backend, prompted("also the triangle", drafts=strange))
        assert said(third).startswith("also the triangle, after 0 turns")

        # A reason the worker gives is shown as it is.
        (failed,) = ask(backend, prompted("raise"))
        assert masks(failed) == [] and said(failed) == "The model failed on this image (RuntimeError)."

    def test_a_model_without_turns_gets_prompts_that_stand_alone(
        self, redis_url: str, workers: Workers
    ) -> None:
        workers.start("patient", FOLLOWS_UP="0")
        eventually(lambda: any(s.model_version for s in workers.queue.worker_status()), "it is ready")
        with running_backend(redis_url) as client:
            (mask,) = masks(ask(client, prompted("the circle"))[0])
            drafts = [{"result": [mask]}]
            (also,) = ask(client, prompted("also the square", drafts=drafts))
            assert said(also).startswith("the square, after 0 turns")
            (only,) = ask(client, prompted("only the left one", drafts=drafts))
            assert masks(only) == masks(also) and "There is only" in said(only)
            (other,) = ask(client, prompted("the other one", drafts=drafts))
            assert masks(other) == [] and "Name the thing" in said(other)
            # Nothing was shown before on this image.
            for number, prompt in enumerate(
                ("only the left one", "remove the cup", "delete the cup", "the largest", "segment them")
            ):
                (first,) = ask(client, prompted(prompt, id=90 + number))
                assert masks(first) == []
                assert said(first) == (
                    'Name the thing, for example "the cup". '
                    '"only the left one" works while masks wait to be accepted.'
                )
            (named,) = ask(client, prompted("only the cup", id=99))
            assert said(named).startswith("only the cup, after 0 turns")
        assert workers.seen() == ["the circle", "the square", "only the cup"]

    def test_no_prompt_is_an_empty_result(self, backend: httpx.Client) -> None:
        assert ask(backend, payload("empty_context")) == [{"result": []}]

    def test_space_is_no_prompt(self, backend: httpx.Client) -> None:
        assert ask(backend, prompted(" \n")) == [{"result": []}]

    def test_recorded_second_prompt_without_provenance(self, backend: httpx.Client, ready: Workers) -> None:
        (prediction,) = ask(backend, payload("second_prompt"))
        assert said(prediction).startswith("triangle, after 0 turns")

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (prompted("x" * 2001), "2001 characters; shorten it to 2000"),
            (prompted("x", data={}), 'no address under "image"'),
            (prompted("x", data={"image": 3}), 'no address under "image"'),
            (prompted("x", data={"image": " "}), 'no address under "image"'),
            (prompted("x", data={"image": "\ud800"}), "broken characters"),
            (prompted("\ud800"), "broken characters"),
            (prompted("x") | {"label_config": NO_BRUSH}, "<BrushLabels"),
        ],
    )
    def test_what_is_wrong_is_said_in_the_answer_control(
        self, backend: httpx.Client, body: dict[str, Any], sentence: str
    ) -> None:
        (prediction,) = ask(backend, body)
        assert masks(prediction) == [] and sentence in said(prediction)

    @pytest.mark.parametrize(
        ("body", "status", "sentence"),
        [
            (prompted("x") | {"label_config": "<View/>"}, 400, "<BrushLabels"),
            (prompted("x") | {"label_config": "no xml"}, 400, "well-formed"),
            (prompted("x", data={}) | {"label_config": NO_ANSWER}, 400, "no image"),
            (prompted("x") | {"label_config": NO_ANSWER}, 503, "python -m worker"),
            (prompted("x") | {"tasks": []}, 400, "exactly one"),
        ],
    )
    def test_without_an_answer_control_it_is_an_error(
        self, backend: httpx.Client, body: dict[str, Any], status: int, sentence: str
    ) -> None:
        response = backend.post("/predict", json=body)
        assert response.status_code == status
        assert sentence in response.json()["detail"]


class TestStates:
    def test_no_worker(self, backend: httpx.Client) -> None:
        start = time.monotonic()
        (prediction,) = ask(backend, prompted("the circle"))
        assert "`python -m worker`" in said(prediction)
        assert time.monotonic() - start < 10

    def test_loading_then_answered(self, redis_url: str, workers: Workers) -> None:
        workers.start("patient", LOAD_S="4")
        eventually(lambda: bool(workers.queue.worker_status()), "the worker announces itself")
        with running_backend(redis_url, predict_wait_s=0.5) as hasty:
            (prediction,) = ask(hasty, prompted("the circle"))
        assert said(prediction) == "The model is still loading; ask again in a moment."
        with running_backend(redis_url, predict_wait_s=40) as patient:
            (prediction,) = ask(patient, prompted("the circle"))
        assert len(masks(prediction)) == 1

    def test_running_waiting_and_the_answer_afterwards(self, redis_url: str, ready: Workers) -> None:
        with running_backend(redis_url, predict_wait_s=0.3) as client:
            (first,) = ask(client, prompted("sleep 3 first"))
            assert (
                said(first)
                == "The model is at work on this; ask the same again in a moment, its answer is kept."
            )
            (second,) = ask(client, prompted("second"))
            assert said(second) == "Next in line; ask the same again in a moment, its answer is kept."
            (third,) = ask(client, prompted("third"))
            assert (
                said(third)
                == "Waiting in line behind 1 other; ask the same again in a moment, its answer is kept."
            )
            (fourth,) = ask(client, prompted("fourth"))
            assert (
                said(fourth)
                == "Waiting in line behind 2 others; ask the same again in a moment, its answer is kept."
            )
            eventually(lambda: bool(masks(ask(client, prompted("third"))[0])), "the third is answered")
        assert ready.seen().count("third") == 1

    def test_the_last_worker_dies(self, backend: httpx.Client, workers: Workers) -> None:
        start(workers)
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.extend(ask(backend, prompted("sleep 30"))))
        asking.start()
        eventually(lambda: bool(workers.seen()), "the worker has begun")
        workers.close()
        asking.join()
        assert "`python -m worker`" in said(answers[0])

    def test_no_redis(self) -> None:
        with running_backend(NOWHERE) as client:
            start = time.monotonic()
            (prediction,) = ask(client, prompted("the circle"))
            assert time.monotonic() - start < 4
            assert "REDIS_URL" in said(prediction)
            response = client.post("/predict", json=payload("batch"))
            assert response.status_code == 503 and "REDIS_URL" in response.json()["detail"]

    def test_a_silent_redis(self) -> None:
        with running_server() as server:  # takes connections and says nothing that Redis would say
            server.routes.clear()
            with running_backend(f"redis://{server.address}/0") as client:
                (prediction,) = ask(client, prompted("the circle"))
        assert "REDIS_URL" in said(prediction)

    def test_a_lost_prompt_is_reported(self) -> None:
        with pytest.raises(Exception, match="has lost this prompt"):
            result_of(JobState("unknown"))


class TestBatch:
    def test_results_in_order(self, backend: httpx.Client, ready: Workers) -> None:
        first, failed, imageless, last = ask(backend, self.four())
        assert said(first).startswith("the circle,") and len(masks(first)) == 1
        assert said(last).startswith("Segment the circle, the square and the triangle in this image.,")
        # No prediction at all: an empty one would count as made, and the task would never be tried again.
        assert failed == [] and imageless == []

    @staticmethod
    def four() -> dict[str, Any]:
        body = batch("the circle", "raise", "no image", " ")
        del body["tasks"][2]["data"]["image"]
        return body

    def test_labels_and_images_from_the_task(self, backend: httpx.Client, ready: Workers) -> None:
        xml = (
            '<View><Image name="image" valueList="$pages"/>'
            '<TextArea name="answer" toName="image" editable="false"/>'
            '<PolygonLabels name="outline" toName="image" value="$classes"/></View>'
        )
        body = batch("", "the boat") | {"label_config": xml}
        for task in body["tasks"]:
            task["data"] |= {"pages": [task["data"].pop("image"), "missing.png"]}
        body["tasks"][0]["data"]["classes"] = [{"value": "Boat", "alias": "boat"}, {"value": "Lake"}]
        asked, unlabelled = ask(backend, body)
        assert said(asked).startswith("Segment the boat and the lake in this image.,")
        outlines = [item for item in asked["result"] if item["type"] == "polygonlabels"]
        assert outlines and {item["item_index"] for item in outlines} == {0}
        assert "No label of this project fits" in said(unlabelled)

    def test_unusable_config(self, backend: httpx.Client) -> None:
        response = backend.post("/predict", json=payload("batch") | {"label_config": NO_BRUSH})
        assert response.status_code == 400 and "<BrushLabels" in response.json()["detail"]

    def test_no_tasks(self, backend: httpx.Client) -> None:
        assert ask(backend, batch()) == []

    def test_a_prompt_is_answered_before_the_rest_of_a_batch(self, redis_url: str, ready: Workers) -> None:
        with running_backend(redis_url, batch_wait_s=0) as client:
            assert ask(client, batch("sleep 1 a", "sleep 1 b", "sleep 1 c")) == [[], [], []]
            (prediction,) = ask(client, prompted("now"))
        assert len(masks(prediction)) == 1
        assert ready.seen().index("now") < 3


class LabelStudio:
    """Records the predictions it is given; refuses the first `refusals`."""

    def __init__(self, server: ImageServer, refusals: int = 0) -> None:
        self.url = server.url
        self.predictions: list[dict[str, Any]] = []
        self.deleted: set[int] = set()
        self._refusals = refusals
        server.routes["/api/predictions/"] = self._take

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "GET":
            task = int(parse_qs(urlsplit(handler.path).query)["task"][0])
            stored = [prediction for prediction in self.predictions if prediction["task"] == task]
            reply(json.dumps(stored).encode(), Content_Type="application/json")(handler)
            return
        prediction = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert handler.headers["Authorization"] == "Token a-legacy-token"
        if self._refusals:
            self._refusals -= 1
            reply(b"{}", 503)(handler)
            return
        if prediction["task"] in self.deleted:
            reply(b"{}", 404)(handler)
            return
        self.predictions.append(prediction)
        reply(json.dumps({"id": 1} | prediction).encode(), 201, Content_Type="application/json")(handler)


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


class TestLatePredictions:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backend.prompts.late_predictions.RETRY_PAUSE_S", 0.2)
        monkeypatch.setattr("backend.prompts.late_predictions.SEND_RETRY_PAUSES_S", (0.5,) * 5)

    @pytest.fixture
    def label_studio(self) -> Iterator[LabelStudio]:
        with running_server() as server:
            yield LabelStudio(server)

    def test_opening_a_task_does_not_wait_and_is_served_later(
        self, redis_url: str, workers: Workers, label_studio: LabelStudio
    ) -> None:
        opened = payload("task_open")
        opened["tasks"][0]["data"]["prompt"] = "the circle and the square"
        with running_backend(
            redis_url, label_studio_url=label_studio.url, label_studio_api_key="a-legacy-token"
        ) as client:
            start_s = time.monotonic()
            # Without a worker, while one loads and while one works: opened again and again.
            assert ask(client, opened) == [[]]
            assert ask(client, opened) == [[]]
            assert time.monotonic() - start_s < 3
            start(workers)
            eventually(lambda: bool(label_studio.predictions), "the prediction arrives")
            (sent,) = label_studio.predictions
            assert sent["task"] == 5 and sent["model_version"] == "stand-in-1" and sent["score"] == 0.75
            assert said(sent).startswith("the circle and the square")
            # Known by now, so that it comes at once.
            (known,) = ask(client, opened)
            assert said(known) == said(sent)
            assert masks(known)[0]["value"] == masks(sent)[0]["value"]
            time.sleep(0.5)
            assert len(label_studio.predictions) == 1

    def test_opening_a_task_where_people_type_prompts_asks_for_no_masks(
        self, redis_url: str, ready: Workers, label_studio: LabelStudio
    ) -> None:
        with running_backend(
            redis_url, label_studio_url=label_studio.url, label_studio_api_key="a-legacy-token"
        ) as client:
            for _ in range(2):  # as Label Studio does
                assert ask(client, payload("task_open")) == [[]]
            eventually(lambda: ready.seen() == ["warm 8 x 6"], "a worker has looked at the image")
            time.sleep(1)
            assert ask(client, payload("task_open")) == [[]]
            # The prompt finds a worker that has not looked at the image anew.
            assert len(masks(ask(client, prompted("the circle"))[0])) == 1
        assert ready.seen() == ["warm 8 x 6", "the circle"]
        assert label_studio.predictions == []

    @pytest.mark.parametrize("image", [None, "", "\ud800"])
    def test_opening_a_task_without_a_usable_image(self, redis_url: str, ready: Workers, image: Any) -> None:
        body = payload("task_open")
        body["tasks"][0]["data"]["image"] = image
        with running_backend(redis_url) as client:
            assert ask(client, body) == [[]]
        assert ready.seen() == []

    def test_opening_a_task_without_a_worker_leaves_nothing_to_do(
        self, redis_url: str, workers: Workers
    ) -> None:
        with running_backend(redis_url) as client:
            assert ask(client, payload("task_open")) == [[]]
            time.sleep(0.5)
        assert workers.queue.depth().warm == 0

    def test_opening_a_task_does_not_wait_for_a_redis_that_is_down_or_silent(self) -> None:
        with running_server() as silent:
            silent.routes.clear()
            for url in (NOWHERE, f"redis://{silent.address}/0"):
                with running_backend(url) as client:
                    client.get("/health")
                    start_s = time.monotonic()
                    assert ask(client, payload("task_open")) == [[]]
                    assert time.monotonic() - start_s < 0.5

    def test_the_rest_of_a_batch(self, redis_url: str, ready: Workers, label_studio: LabelStudio) -> None:
        with running_backend(
            redis_url,
            batch_wait_s=1.5,
            label_studio_url=label_studio.url,
            label_studio_api_key="a-legacy-token",
        ) as client:
            first, second, third = ask(client, batch("the circle", "sleep 3", "the square"))
            assert said(first).startswith("the circle") and second == [] and third == []
            eventually(lambda: len(label_studio.predictions) == 2, "the rest arrives")
        assert [prediction["task"] for prediction in label_studio.predictions] == [2, 3]

    def test_label_studio_is_away_for_a_moment(self, redis_url: str, ready: Workers) -> None:
        with running_server() as server:
            label_studio = LabelStudio(server, refusals=4)
            with running_backend(
                redis_url,
                batch_wait_s=0,
                label_studio_url=label_studio.url,
                label_studio_api_key="a-legacy-token",
            ) as client:
                ask(client, batch("the circle", "the square"))
                eventually(lambda: len(label_studio.predictions) == 2, "both arrive")

    def test_a_killed_backend_leaves_what_it_owes_to_the_next(
        self, redis_url: str, workers: Workers, label_studio: LabelStudio, tmp_path: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = os.environ | {
            "REDIS_URL": redis_url,
            "DATA_DIR": str(tmp_path / "data"),
            "PORT": str(port),
            "BATCH_WAIT_S": "0",
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": "a-legacy-token",
        }
        command = [sys.executable, "-m", "backend"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                eventually(lambda: is_up(client), "the backend runs")
                # Without a worker nothing is even queued.
                assert ask(client, batch("the circle", "the square", "the triangle")) == [[], [], []]
        finally:
            process.kill()
            process.wait()
        # One of them was stored just before the end.
        label_studio.predictions.append({"task": 2, "model_version": "stand-in-1"})
        start(workers)
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            connection = redis.Redis.from_url(redis_url)
            eventually(lambda: not connection.exists(LEASES, ENTRIES, CONFIGS), "nothing is owed")
        finally:
            process.kill()
            process.wait()
        sent = {prediction["task"]: prediction for prediction in label_studio.predictions}
        assert sorted(sent) == [1, 2, 3] and len(label_studio.predictions) == 3
        assert [len(masks(sent[task])) for task in (1, 3)] == [1, 1]
        assert said(sent[3]).startswith("the triangle")

    def test_what_is_answered_in_time_is_not_owed(
        self, redis_url: str, ready: Workers, label_studio: LabelStudio
    ) -> None:
        settings = {"label_studio_url": label_studio.url, "label_studio_api_key": "a-legacy-token"}
        with running_backend(redis_url, batch_wait_s=20, **settings) as client:
            assert all(ask(client, batch("the circle", "raise", "the square"))[::2])
            connection = redis.Redis.from_url(redis_url)
            assert not connection.exists(LEASES, ENTRIES, CONFIGS)
        assert label_studio.predictions == []

    def test_a_stopped_backend_leaves_what_it_owes_at_once(
        self, redis_url: str, workers: Workers, label_studio: LabelStudio
    ) -> None:
        settings = {"label_studio_url": label_studio.url, "label_studio_api_key": "a-legacy-token"}
        with running_backend(redis_url, batch_wait_s=0, **settings) as client:
            assert ask(client, batch("the circle")) == [[]]
        start(workers)
        with running_backend(redis_url, **settings):
            eventually(lambda: len(label_studio.predictions) == 1, "the prediction arrives")

    def test_label_studio_refuses_one_of_them(
        self, redis_url: str, ready: Workers, label_studio: LabelStudio, caplog: pytest.LogCaptureFixture
    ) -> None:
        label_studio.deleted = {1}
        with running_backend(
            redis_url,
            batch_wait_s=0,
            label_studio_url=label_studio.url,
            label_studio_api_key="a-legacy-token",
        ) as client:
            ask(client, batch("the circle", "the square"))
            eventually(lambda: bool(label_studio.predictions), "the other one arrives")
        assert [prediction["task"] for prediction in label_studio.predictions] == [2]
        assert "does not take the prediction for task 1: HTTP status 404" in caplog.text
