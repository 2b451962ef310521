"""The parts of pre-labelling that need no server: ontologies, summaries, progress, choices and colours."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.prelabelling.drawing import UNLABELLED, label_colours, paint
from backend.prelabelling.predictions import asked_in, build, of_version
from backend.prelabelling.preview import evenly
from backend.prelabelling.progress import Progress
from backend.prelabelling.questions import BadQuestions, about_every_label, from_ontology
from backend.prelabelling.summary import Summary
from backend.prompts.request import Task
from backend.prompts.tasks import BadTask
from label_config import read_config
from worker.jobs.contract import SegmentJob, SegmentResult, TargetResult
from worker.jobs.masks import to_rle

CONFIG = read_config(
    '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">'
    '<Label value="Cup" background="#00ff00" predicted_values="mug"/><Label value="Book" background="blue"/>'
    '<Label value="Spoon" background="no colour"/></BrushLabels></View>'
)


def test_an_ontology_maps_prompts_to_labels_by_value_or_alias(tmp_path: Path) -> None:
    path = tmp_path / "ontology.json"
    path.write_text('{" the red cups ": "mug", "novels": "Book"}')
    questions = from_ontology(path, CONFIG)(Task(id=1, data={}))
    assert questions == {"the red cups": "Cup", "novels": "Book"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "has no prompts"),
        ('{"a": 3}', '"a" in .* needs a label in quotes, not 3'),
        ('{"a": {"b": "Cup"}}', '"a" in .* needs a label in quotes'),
        ('{" ": "Cup"}', "is empty"),
        ('{"a": "Cup", "a ": "Book"}', '"a" is more than once'),
        (
            '{"a": "Fork", "b": "Cup", "c": "Knife"}',
            'no label "Fork", "Knife" .* labels are "Cup", "Book", "Spoon"',
        ),
        (json.dumps({"x" * 2001: "Cup"}), "has 2001 characters"),
        ("\ud800", "is not valid JSON"),
    ],
)
def test_errors_in_an_ontology_are_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "ontology.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadQuestions, match=sentence) as caught:
        from_ontology(path, CONFIG)
    assert "\n" not in str(caught.value)


def test_failures_that_differ_only_in_the_address_are_of_one_kind() -> None:
    summary = Summary()
    for task in range(1, 6):
        summary.add_failure(task, f"There is no image at https://a.example/{task}.png (HTTP 404).")
    summary.add_failure(6, "https://a.example/6.png answered HTTP 500 instead of an image.")
    first, second = [line for line in summary.lines() if "  failed" in line]
    assert first.startswith("  failed, 5 (task 1, 2, 3, ...): There is no image at https://a.example/1.png")
    assert second.startswith("  failed, 1 (task 6)") and summary.failed == 6


def test_words_that_the_model_does_not_know_are_named() -> None:
    assert "never taught: rocket;" in Summary(unknown={"rocket"}).lines()[-1]


def test_a_log_gets_lines_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.prelabelling.progress.LINE_EVERY_S", 0.0)
    stream = io.StringIO()
    with Progress(10, stream) as progress:
        progress.skip()
        progress.step()
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("1 of 9 tasks, ") and " tasks/s, " in line and line.endswith(" left")


def test_choices_are_even_and_never_more_than_there_are() -> None:
    assert evenly(range(100), 4) == [12, 37, 62, 87]
    assert evenly([1, 2], 5) == [1, 2] and evenly([], 3) == []


def test_a_prediction_says_what_was_asked() -> None:
    def prediction(number: int, version: str, *metas: object) -> dict[str, Any]:
        return {"id": number, "model_version": version, "result": [{"meta": meta} for meta in metas]}

    stored: list[dict[str, Any]] = [
        prediction(1, "old", {"pixellm": {"asked": {"cups": None}}}),
        prediction(2, "new", {"pixellm": {"asked": {"cups": None, "books": None}, "prompt": "cups"}}),
        prediction(3, "new", {"pixellm": {"prompt": "spoons"}}, {"pixellm": {"prompt": "spoons"}}),
        prediction(4, "new", None),
        {"id": 5, "model_version": None, "result": None},
    ]
    assert of_version(stored, "old") == stored[0] and of_version(stored, "new") == stored[1]
    assert of_version(stored, "newest") is None
    assert [asked_in(one) for one in stored] == [
        {"cups": None},
        {"cups": None, "books": None},
        {"spoons": None},
        {},
        {},
    ]


def test_labels_have_the_colours_of_the_configuration() -> None:
    colours = label_colours(CONFIG)
    assert colours["Cup"] == (0, 255, 0) and colours["Book"] == (0, 0, 255)
    assert colours["Spoon"] not in (UNLABELLED, colours["Cup"]) and colours[None] == UNLABELLED


def test_masks_are_filled_and_outlined() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    painted = np.asarray(paint(Image.new("RGB", (80, 60)), [(to_rle(mask), (0, 200, 0))]))
    assert tuple(painted[10, 40]) == (0, 200, 0) and tuple(painted[25, 40]) == (0, 90, 0)
    assert not painted[50:].any() and not painted[:, :15].any()


FROM_TASK = read_config(
    '<View><Image name="image" valueList="$pages"/>'
    '<PolygonLabels name="outline" toName="image" value="$classes"/>'
    '<TextArea name="answer" toName="image" editable="false" perItem="true"/></View>'
)


def test_every_label_of_the_task_is_asked_for() -> None:
    questions_of = about_every_label(FROM_TASK)
    data = {"pages": ["a.jpg"], "classes": [{"value": "Cup"}]}
    assert questions_of(Task(id=1, data=data)) == {"Segment the cup in this image.": None}
    with pytest.raises(BadTask, match="no labels to ask for"):
        questions_of(Task(id=2, data={"pages": ["a.jpg"]}))


def test_a_prediction_has_the_project_s_shapes_and_a_score_for_each_target() -> None:
    apart = np.zeros((60, 80), bool)
    apart[10:20, 10:20] = apart[40:50, 60:70] = True
    whole = np.zeros((60, 80), bool)
    whole[30:40, 10:20] = True
    targets = tuple(
        TargetResult(phrase="it", score=score, box=(0, 0, 1, 1), mask=to_rle(mask))
        for mask, score in ((apart, 0.2), (whole, 0.8))
    )
    job = SegmentJob(image="a.jpg", prompt="the cups", task="1", project="1", priority="batch")
    result = SegmentResult(
        job_id="seg-1", answer="Two.", targets=targets, width=80, height=60, model_version="mini"
    )
    config = FROM_TASK.for_task(
        {"pages": ["a.jpg", "b.jpg"], "classes": [{"value": "Cup"}, {"value": "Book"}]}
    )
    prediction = build([(job, result)], {"the cups": "Cup"}, config, 0.0)
    *polygons, answer = prediction["result"]
    assert [polygon["value"]["polygonlabels"] for polygon in polygons] == [["Cup"]] * 3
    assert {item["item_index"] for item in (*polygons, answer)} == {0}
    assert prediction["score"] == pytest.approx(0.5)
    assert asked_in(prediction) == {"the cups": "Cup"}


def test_labels_of_several_controls_keep_their_colours() -> None:
    config = read_config(
        '<View><Image name="image" value="$image"/>'
        '<BrushLabels name="mask" toName="image"><Label value="Cup"/></BrushLabels>'
        '<PolygonLabels name="outline" toName="image"><Label value="Cup" background="#00ff00"/>'
        '<Label value="Book" background="blue"/></PolygonLabels></View>'
    )
    colours = label_colours(config)
    assert colours["Cup"] == (0, 255, 0) and colours["Book"] == (0, 0, 255)
