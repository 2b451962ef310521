"""Evaluation of a scripted model, whose metrics can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from test_data import muse_entry, write_muse

from pixellm_model import PromptError, Request, Segmenter
from pixellm_model.__main__ import main
from pixellm_model.engine.answers import Segmentation, Target
from pixellm_model.errors import DataError
from pixellm_model.masks import mask_box
from pixellm_model.measuring.evaluation import evaluate
from pixellm_model.measuring.report import WorstAnswers, write_report
from pixellm_model.samples import Question, Sample

LEFT, RIGHT = (np.zeros((20, 30), bool) for _ in range(2))
LEFT[:, :15], RIGHT[:, 15:] = True, True


def sample() -> Sample:
    return Sample(
        np.full((20, 30, 3), 90, np.uint8),
        (
            Question("both", "a is {seg} and b is {seg}.", (LEFT, RIGHT), ("a", "b")),
            Question("left", "a is {seg}.", (LEFT,), ("a",)),
            Question("none", "There is no c in this image.", (), ()),
            Question("refused", "a is {seg}.", (LEFT,), ("a",)),
        ),
    )


class ScriptedModel:
    """Answers each prompt with the masks given for it, and refuses others."""

    version = "scripted <1>"

    def __init__(self, masks: dict[str, list[np.ndarray]]):
        self.masks = masks
        self.asked: list[Request] = []

    def segment_batch(self, requests: Sequence[Request]) -> list[Segmentation | PromptError]:
        self.asked += requests
        (request,) = requests
        if request.prompt not in self.masks:
            return [PromptError("The prompt is too long.")]
        masks = self.masks[request.prompt]
        targets = tuple(Target("<b>thing</b>", mask, 0.9, mask_box(mask)) for mask in masks)
        return [Segmentation("<script>alert(1)</script>", targets)]

    def logits(self, request: Request) -> list[np.ndarray]:
        return [np.where(mask, 9.0, -9.0).astype(np.float32) for mask in self.masks.get(request.prompt, [])]


MASKS = {"both": [RIGHT, LEFT], "left": [LEFT, RIGHT], "none": [np.zeros_like(LEFT)]}


def test_figures_and_table_by_hand() -> None:
    evaluation = evaluate(ScriptedModel(MASKS), [sample()], compat=True)
    figures = evaluation.figures()
    assert figures["questions"] == 4
    assert figures["gIoU"] == pytest.approx(3 / 5)  # both: 1, 1; left: 1, an extra 0; refused: 0
    assert figures["precision"] == pytest.approx(3 / 4) and figures["recall"] == pytest.approx(3 / 4)
    assert figures["count_accuracy"] == pytest.approx(2 / 4)
    assert figures["none_accuracy"] == 1.0  # an empty mask is not shown
    # Both found, the extra mask free, and so is the empty one, the missed truth not: 4 and 1 of max(5, 4).
    assert figures["muse_gIoU"] == pytest.approx(5 / 5, abs=1e-4)
    assert [row.iou for row in evaluation.questions] == [1.0, 0.5, 1.0, 0.0]
    assert evaluation.questions[3].answer == "The prompt is too long."
    json.dumps(evaluation.as_json())


def test_history_reaches_the_model() -> None:
    turns = (("all", "a is [1]."),)
    question = Question("left", "a is {seg}.", (LEFT,), ("a",), turns)
    model = ScriptedModel(MASKS)
    evaluate(model, [Sample(sample().image, (question,))])
    assert model.asked[0].history == turns


def test_nothing_to_ask_is_an_error() -> None:
    with pytest.raises(DataError, match="no question"):
        evaluate(ScriptedModel({}), [])


def test_the_report_shows_the_worst_first_and_runs_nothing(tmp_path: Path) -> None:
    worst_answers = WorstAnswers(3)
    evaluation = evaluate(ScriptedModel(MASKS), [sample()], on_answer=worst_answers.add)
    page = write_report(evaluation, worst_answers, tmp_path).read_text()
    assert [row.question for row, _ in worst_answers.worst_first()] == ["refused", "left", "both"]
    assert page.index("refused") < page.index("<b>left") < page.index("<b>both")
    assert "<script>" not in page and "scripted &lt;1&gt;" in page and "&lt;script&gt;" in page
    assert page.count("data:image/jpeg") == 9
    assert json.loads((tmp_path / "report.json").read_text())["figures"] == evaluation.figures()


@pytest.mark.slow
def test_the_command_measures_the_mini_and_writes_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_muse(tmp_path / "data", muse_entry(), 5)
    arguments = ["evaluate", "--data", str(folder), "--out", str(tmp_path / "out"), "--json", "--compat"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["figures"]["questions"] == 4 and len(printed["skipped"]) == 1
    assert (tmp_path / "out" / "report.html").is_file()
    assert main(["evaluate", "--data", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_logits_are_what_masks_are_cut_from() -> None:
    from PIL import Image

    samples = Path(__file__).parents[2] / "demo" / "samples"
    segmenter = Segmenter.from_pretrained(device="cpu")
    segmenter.vocabulary = None  # logits are of the prompt as it is typed
    request = Request(Image.open(samples / "scene_table.jpg").convert("RGB"), "the cup and the book")
    (answered,) = segmenter.segment_batch([request])
    assert isinstance(answered, Segmentation) and answered.targets
    for target, logits in zip(answered.targets, segmenter.logits(request), strict=True):
        assert ((logits > 0) != target.mask).mean() < 1e-4
