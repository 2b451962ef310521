"""A page of answered tasks that opens without a network: HTML with its images inside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from backend.prelabelling.drawing import Colour

JPEG_QUALITY = 82

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 24px; font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #f4f4f2; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 20px; }}
figure {{ margin: 0; background: #fff; border: 1px solid #ddd; border-radius: 6px; overflow: hidden; }}
img {{ display: block; width: 100%; }}
figcaption {{ padding: 10px 14px 14px; }}
h2 {{ margin: 0 0 6px; font-size: 15px; }}
ul {{ margin: 0; padding: 0; list-style: none; }}
i {{ display: inline-block; width: 12px; height: 12px; margin-right: 6px; border-radius: 2px; }}
.score {{ font-variant-numeric: tabular-nums; }}
.phrase, .answer {{ color: #555; }}
.answer {{ margin: 8px 0 0; }}
.failed {{ color: #a11; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{subtitle}</p>
<main>
{cards}
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Target:
    """A target of an answer.

    Attributes:
        label: Its label; None if no label of the project fits.
        score: The model's confidence, 0..1.
        phrase: What the model calls it.
        colour: The colour of its mask.
        is_empty: Whether it has no mask.
    """

    label: str | None
    score: float
    phrase: str
    colour: Colour
    is_empty: bool


@dataclass(frozen=True)
class Card:
    """One task.

    Attributes:
        task: Its number.
        picture: The image with its masks; None if there is none.
        targets: The targets of all answers.
        answer: The model's text.
        failure: Why there is no answer; empty if there is one.
    """

    task: int
    picture: Image.Image | None = None
    targets: Sequence[Target] = ()
    answer: str = ""
    failure: str = ""


def contact_sheet(title: str, subtitle: str, cards: Sequence[Card]) -> str:
    """Return the page of some tasks."""
    return _PAGE.format(
        title=html.escape(title), subtitle=html.escape(subtitle), cards="\n".join(map(_figure, cards))
    )


def _figure(card: Card) -> str:
    parts = ["<figure>"]
    if card.picture is not None:
        parts.append(f'<img src="{_data_url(card.picture)}" alt="Task {card.task}">')
    parts.append(f"<figcaption><h2>Task {card.task}</h2>")
    if card.failure:
        parts.append(f'<p class="failed">{html.escape(card.failure)}</p>')
    elif not card.targets:
        parts.append("<p>Nothing found.</p>")
    parts.append(f"<ul>{''.join(map(_row, card.targets))}</ul>")
    if card.answer:
        parts.append(f'<p class="answer">{html.escape(card.answer)}</p>')
    return "".join([*parts, "</figcaption></figure>"])


def _row(target: Target) -> str:
    red, green, blue = target.colour
    label = html.escape(target.label) if target.label else "<em>no label</em>"
    outcome = "not found" if target.is_empty else f"{target.score:.2f}"
    return (
        f'<li><i style="background:rgb({red},{green},{blue})"></i><b class="label">{label}</b> '
        f'<span class="score">{outcome}</span> <span class="phrase">{html.escape(target.phrase)}</span></li>'
    )


def _data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
