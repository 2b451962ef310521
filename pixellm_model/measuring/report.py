"""An HTML report of an evaluation: the metrics, and the worst answers as pictures."""

from __future__ import annotations

import base64
import heapq
import html
import io
import json
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm_model.engine.answers import Segmentation, Target
from pixellm_model.masks import mask_box
from pixellm_model.measuring.evaluation import Evaluation, QuestionScore
from pixellm_model.measuring.overlay import draw_overlay
from pixellm_model.samples import Mask, Question, Sample

WORST = 60  # answers shown
MAX_PICTURE_SIDE = 300  # long side of a picture in pixels
LABELS = {
    "questions": "questions",
    "gIoU": "gIoU",
    "cIoU": "cIoU",
    "precision": "precision at IoU 0.5",
    "recall": "recall at IoU 0.5",
    "count_accuracy": "right number of masks",
    "none_accuracy": "nothing found where nothing is",
    "calibration_error": "distance of scores from the share of right masks",
    "seconds_p50": "seconds a prompt, median",
    "seconds_p95": "seconds a prompt, 95th percentile",
    "muse_gIoU": "gIoU as the reference counts",
    "muse_cIoU": "cIoU as the reference counts",
}
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1c1c1c}
h1{font-size:1.4rem;margin-bottom:.2rem} .note{color:#666;margin-top:0}
table{border-collapse:collapse;margin:1rem 0} td,th{padding:.25rem .9rem .25rem 0;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.row{display:grid;grid-template-columns:repeat(3,1fr);gap:.6rem;border-top:1px solid #ddd;padding:.9rem 0}
.row img{width:100%;height:auto;display:block;background:#f3f3f3} .row .text{grid-column:1/-1}
.iou{display:inline-block;min-width:3.2rem;font-weight:600} .said{color:#444}
figure{margin:0} figcaption{font-size:.8rem;color:#666}
"""


class WorstAnswers:
    """Keeps pictures of the `size` worst answers. Pass its `add` to `evaluate` as `on_answer`."""

    def __init__(self, size: int = WORST):
        self._size = size
        self._entries: list[tuple[float, int, QuestionScore, list[bytes]]] = []
        self._order = count()

    def add(self, sample: Sample, question: Question, answer: Segmentation, row: QuestionScore) -> None:
        """Add an answer; it is kept while it is among the worst."""
        if len(self._entries) == self._size and -row.iou <= self._entries[0][0]:
            return
        # The heap's first entry is the best of the worst. Pictures are drawn only for entries that are kept.
        entry = (-row.iou, -next(self._order), row, _pictures(sample, question, answer))
        if len(self._entries) < self._size:
            heapq.heappush(self._entries, entry)
        else:
            heapq.heapreplace(self._entries, entry)

    def worst_first(self) -> list[tuple[QuestionScore, list[bytes]]]:
        """The kept rows with three JPEGs each: the image, the true masks and the predicted ones."""
        return [(row, pictures) for _, _, row, pictures in sorted(self._entries, reverse=True)]


def write_report(evaluation: Evaluation, worst_answers: WorstAnswers, folder: Path) -> Path:
    """Write `report.html`, which needs no other file, and `report.json` into `folder`; returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(evaluation.as_json(), indent=1) + "\n", "utf-8")
    page = folder / "report.html"
    page.write_text(_page(evaluation, worst_answers), "utf-8")
    return page


def _page(evaluation: Evaluation, worst_answers: WorstAnswers) -> str:
    figures = "".join(
        f"<tr><td>{LABELS[name]}</td><td class=n>{_number(value)}</td></tr>"
        for name, value in evaluation.figures().items()
    )
    worst = worst_answers.worst_first()
    rows = "".join(_row(row, pictures) for row, pictures in worst)
    skipped = "".join(f"<li>{html.escape(reason)}</li>" for reason in evaluation.skipped[:50])
    skipped_section = (
        f"<h2>{len(evaluation.skipped)} records left out</h2><ul>{skipped}</ul>" if skipped else ""
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation</title><style>{STYLE}</style>"
        f"<h1>{html.escape(evaluation.version)}</h1><p class=note>Free generation; each mask is matched to "
        f"one true mask, extra and missed masks count as IoU 0.</p><table>{figures}</table>"
        f"<h2>The {len(worst)} worst answers</h2>{rows}{skipped_section}</html>\n"
    )


def _row(row: QuestionScore, pictures: list[bytes]) -> str:
    captions = ("image", f"truth ({row.true})", f"predicted ({row.predicted})")
    shown = "".join(
        f"<figure><img alt={json.dumps(caption)} src='data:image/jpeg;base64,"
        f"{base64.b64encode(picture).decode('ascii')}'><figcaption>{caption}</figcaption></figure>"
        for caption, picture in zip(captions, pictures, strict=True)
    )
    return (
        f"<div class=row><div class=text><span class=iou>{row.iou:.2f}</span>"
        f"<b>{html.escape(row.question)}</b> "
        f"<span class=said>{html.escape(row.answer)} (sample {row.sample})</span></div>{shown}</div>"
    )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _pictures(sample: Sample, question: Question, answer: Segmentation) -> list[bytes]:
    image = Image.fromarray(sample.image)
    scale = MAX_PICTURE_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))

    def shrink(phrase: str, mask: Mask, score: float) -> Target:
        shrunk = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        return Target(phrase, shrunk, score, mask_box(shrunk))

    thumbnail = image.resize(size, Image.Resampling.BILINEAR)
    named = zip(question.phrases, question.masks, strict=True)
    truth = [shrink(phrase, mask, 1.0) for phrase, mask in named]
    predicted = [shrink(target.phrase, target.mask, target.score) for target in answer.targets]
    return [
        _jpeg(tile)
        for tile in (thumbnail, draw_overlay(thumbnail, truth), draw_overlay(thumbnail, predicted))
    ]


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return file.getvalue()
