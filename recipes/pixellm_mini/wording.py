"""The same question as other people write it: in capitals, without a full stop, without an article."""

from __future__ import annotations

import re

import numpy as np

_ARTICLE = re.compile(r"\bthe (?=\w)", re.I)


def varied(text: str, rng: np.random.Generator) -> str:
    """A question, mostly as it is.

    Args:
        text: the question.
        rng: what decides.

    Returns: the question, or one that differs in capitals, articles or its last mark.
    """
    chance = rng.random()
    if chance < 0.1:
        text = text.lower()
    elif chance < 0.2:
        text = text[:1].upper() + text[1:]
    elif chance < 0.23:
        text = text.title()
    elif chance < 0.25:
        text = text.upper()
    if rng.random() < 0.15:
        text = _ARTICLE.sub("", text, count=1)
    if rng.random() < 0.15:
        text = text.rstrip(".?!")
    return text
