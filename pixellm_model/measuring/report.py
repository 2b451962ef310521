"""A page to look at: the figures of an evaluation, and its worst answers as pictures."""

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
from pixellm_model.samples import Question, Sample

WORST = 60
TILE = 300  # pixels on the long side
LABELS = {
    "questions": "questions",
    "gIoU": "gIoU",
    "cIoU": "cIoU",
    "precision": "precision at IoU 0.5",
    "recall": "recall at IoU 0.5",
    "count_accuracy": "right number of masks",
    "none_accuracy": "nothing found where nothing is",
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


class Gallery:
    """Keeps pictures of the `size` worst answers it is shown; `evaluate` takes its `look` as `watch`."""

    def __init__(self, size: int = WORST):
        self._size = size
        self._kept: list[tuple[float, int, QuestionScore, list[bytes]]] = []
        self._order = count()

    def look(self, sample: Sample, question: Question, answered: Segmentation, row: QuestionScore) -> None:
        if len(self._kept) == self._size and -row.iou <= self._kept[0][0]:
            return
        # The pictures are only made for what is kept; the heap's first is the best of the worst.
        entry = (-row.iou, -next(self._order), row, _pictures(sample, question, answered))
        if len(self._kept) < self._size:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heapreplace(self._kept, entry)

    def worst_first(self) -> list[tuple[QuestionScore, list[bytes]]]:
        return [(row, pictures) for _, _, row, pictures in sorted(self._kept, reverse=True)]


def write_report(evaluation: Evaluation, gallery: Gallery, folder: Path) -> Path:
    """Write `report.html`, which needs no other file, and `report.json` into `folder`; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(evaluation.as_json(), indent=1) + "\n", "utf-8")
    page = folder / "report.html"
    page.write_text(_page(evaluation, gallery), "utf-8")
    return page


def _page(evaluation: Evaluation, gallery: Gallery) -> str:
    figures = "".join(
        f"<tr><td>{LABELS[name]}</td><td class=n>{_number(value)}</td></tr>"
        for name, value in evaluation.figures().items()
    )
    worst = gallery.worst_first()
    rows = "".join(_row(row, pictures) for row, pictures in worst)
    skipped = "".join(f"<li>{html.escape(reason)}</li>" for reason in evaluation.skipped[:50])
    more = f"<h2>{len(evaluation.skipped)} records left out</h2><ul>{skipped}</ul>" if skipped else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation</title><style>{STYLE}</style>"
        f"<h1>{html.escape(evaluation.version)}</h1><p class=note>Free generation; each mask is matched to "
        f"one true mask, extra and missed masks count as IoU 0.</p><table>{figures}</table>"
        f"<h2>The {len(worst)} worst answers</h2>{rows}{more}</html>\n"
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


def _pictures(sample: Sample, question: Question, answered: Segmentation) -> list[bytes]:
    image = Image.fromarray(sample.image)
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))

    def small(phrase: str, mask: np.ndarray, score: float) -> Target:
        tiny = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        return Target(phrase, tiny, score, mask_box(tiny))

    thumbnail = image.resize(size, Image.Resampling.BILINEAR)
    named = zip(question.phrases, question.masks, strict=True)
    truth = [small(phrase, mask, 1.0) for phrase, mask in named]
    predicted = [small(target.phrase, target.mask, target.score) for target in answered.targets]
    return [
        _jpeg(tile)
        for tile in (thumbnail, draw_overlay(thumbnail, truth), draw_overlay(thumbnail, predicted))
    ]


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return file.getvalue()
