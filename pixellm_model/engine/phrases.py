"""Which words named which target.

The model ties a mask to its phrase by order alone. An answer is seen here as the texts between codebook
runs: text, run, text, run, ..., text. Three shapes occur (specification section 10.7): "mug is B and book
is B.", "the mug and the book are B and B.", and "Sure, it is B.", whose name stands in the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_PHRASE = 80
_ONLY_JOINS = re.compile(r"^[\s,.;:]*(?:and\b)?[\s,]*$", re.I)
_LEAD = re.compile(
    r"^[\s,.;:]*(?:(?:and|sure|okay|yes)\b[\s,]*)*"
    r"(?:the segmentation (?:results?|masks?) (?:of|for|is|are)\b\s*)?",
    re.I,
)
_VERB = re.compile(r"(?:\s*\b(?:is|are)\b|[\s:,])+$", re.I)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.I)
_PRONOUN = re.compile(r"^(?:it|this|that|they|these|those|here)?$", re.I)
_ASKED = re.compile(
    r"^(?:(?:please|can you|could you)\s+)*"
    r"(?:(?:segment|mask|find|show|highlight|outline|select|mark|locate)\s+(?:me\s+)?"
    r"|(?:where|what) (?:is|are)\s+)",
    re.I,
)
_ASKED_TAIL = re.compile(
    r"(?:\s*\bin (?:this|the) (?:image|photo|picture)\b.*|[.?!]\s*please\b.*)?[\s.?!]*$", re.I
)
_LIST = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.I)


def name_targets(texts: Sequence[str], question: str) -> list[str]:
    """Phrases for the `len(texts) - 1` targets of an answer whose runs stand between `texts`.

    >>> name_targets(["mug is", "and book is", "."], "the mug and the book")
    ['mug', 'book']
    >>> name_targets(["The mug and the book are", "and", "."], "both")
    ['mug', 'book']
    >>> name_targets(["Sure, it is", "."], "Please segment the red mug in this image.")
    ['red mug']
    """
    phrases: list[str] = []
    count = len(texts) - 1
    at = 0
    while at < count:
        end = at + 1  # one past the runs that this clause announces
        while end < count and _ONLY_JOINS.match(texts[end]):
            end += 1
        clause = _noun(_VERB.sub("", _LEAD.sub("", texts[at])))
        if _PRONOUN.match(clause):
            clause = _noun(_ASKED_TAIL.sub("", _ASKED.sub("", question.strip())))
        names = [name for name in map(_noun, _LIST.split(clause)) if name]
        phrases += names if len(names) == end - at else [clause] * (end - at)
        at = end
    return [phrase[:MAX_PHRASE] for phrase in phrases]


def asked_phrases(question: str) -> list[str]:
    """What a question names, as far as its wording shows, without articles.

    >>> asked_phrases("Can you segment the cup, the book and a red car in this image?")
    ['cup', 'book', 'red car']
    """
    asked = _ASKED_TAIL.sub("", _ASKED.sub("", question.strip()))
    return [name for name in map(_noun, _LIST.split(asked)) if name]


def _noun(text: str) -> str:
    return _ARTICLE.sub("", text.strip().strip(",.;: "))
