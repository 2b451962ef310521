"""Finds the words that name each target of an answer, and the phrases that a prompt names.

The model ties a mask to its phrase by order alone. An answer is given as the texts between its codebook runs:
text, run, text, run, ..., text. Three forms occur, where B is a run: "mug is B
and book is B.", "the mug and the book are B and B.", and "Sure, it is B.", where the prompt has the name.
A model that is unsure may contradict itself: "There is no cow on the left is B.".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_PHRASE = 80  # characters
_ONLY_JOINS = re.compile(r"^[\s,.;:]*(?:and\b)?[\s,]*$", re.I)
_LEAD = re.compile(
    r"^[\s,.;:]*(?:(?:and|sure|okay|yes)\b[\s,]*)*"
    r"(?:the segmentation (?:results?|masks?) (?:of|for|is|are)\b\s*)?",
    re.I,
)
_VERB = re.compile(r"(?:\s*\b(?:is|are)\b|[\s:,])+$", re.I)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.I)
# "There is no dog in this image. cow is": what was denied before is not what the run is about.
_DENIAL_BEFORE = re.compile(r"^.*\bthere (?:is|are) no\b[^.]*\.\s*", re.I | re.S)
_DENIAL = re.compile(r"^[\s,.;:]*(?:and\s+)?(?:there (?:is|are)\s+)?no\s+", re.I)
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
_EACH = re.compile(
    r"^(?:all|each|every)\b(?:\s+(?:single|one))?(?:\s+of)?\s+(?:the\s+|these\s+|those\s+)?", re.I
)
_APART = re.compile(r"[\s,]*\b(?:on its own|on their own|separately|one by one|individually)[\s.?!]*$", re.I)
_ANYTHING = frozenset(["object", "thing", "item", "one"])


def name_targets(texts: Sequence[str], question: str) -> list[str]:
    """The phrase of each target of an answer.

    Args:
        texts: The answer's texts between its codebook runs.
        question: What was asked.

    Returns:
        len(texts) - 1 phrases of at most MAX_PHRASE characters.

    >>> name_targets(["mug is", "and book is", "."], "the mug and the book")
    ['mug', 'book']
    >>> name_targets(["The mug and the book are", "and", "."], "both")
    ['mug', 'book']
    >>> name_targets(["Sure, it is", "."], "Please segment the red mug in this image.")
    ['red mug']
    """
    phrases: list[str] = []
    count = len(texts) - 1
    start = 0
    while start < count:
        end = start + 1  # one past the runs that this clause announces
        while end < count and _ONLY_JOINS.match(texts[end]):
            end += 1
        clause = _DENIAL.sub("", _DENIAL_BEFORE.sub("", texts[start]))
        clause = _noun(_VERB.sub("", _LEAD.sub("", clause)))
        if _PRONOUN.match(clause):
            clause = _noun(_ASKED_TAIL.sub("", _ASKED.sub("", question.strip())))
        names = [name for name in map(_noun, _LIST.split(clause)) if name]
        phrases += names if len(names) == end - start else [clause] * (end - start)
        start = end
    return [phrase[:MAX_PHRASE] for phrase in phrases]


def denied_targets(texts: Sequence[str]) -> list[bool]:
    """Whether an answer denies each of its targets although it has codebook tokens for it.

    >>> denied_targets(["There is no cow on the left is", "and dog is", "."])
    [True, False]
    """
    return [bool(_DENIAL.match(_DENIAL_BEFORE.sub("", text))) for text in texts[:-1]]


def asks_for_each(question: str, phrase: str) -> bool:
    """Whether a question asks for each thing that a phrase names on its own ("all the dogs", "every dog").

    >>> asks_for_each("Segment all the dogs and the cat.", "dog")
    True
    >>> asks_for_each("the dogs", "dog"), asks_for_each("all the dogs and the cat", "cat")
    (False, False)
    """
    asked = asked_phrases(_APART.sub("", question))
    nouns = [forms(_EACH.sub("", name)) for name in asked if _EACH.match(name)]
    return any(noun & forms(phrase) and not noun & _ANYTHING for noun in nouns)


def without_each(phrase: str) -> str:
    """A phrase without the words that ask for each thing on its own.

    >>> without_each("all of the dogs"), without_each("every dog"), without_each("all")
    ('dogs', 'dog', 'all')
    """
    return _EACH.sub("", phrase) or phrase


def asked_phrases(question: str) -> list[str]:
    """The phrases that a question names, without articles.

    >>> asked_phrases("Can you segment the cup, the book and a red car in this image?")
    ['cup', 'book', 'red car']
    """
    named = _ASKED_TAIL.sub("", _ASKED.sub("", question.strip()))
    return [name for name in map(_noun, _LIST.split(named)) if name]


def _noun(text: str) -> str:
    return _ARTICLE.sub("", text.strip().strip(",.;: "))


def forms(phrase: str) -> set[str]:
    """The last word of a phrase in lower case, and what may be its singular; only for comparing."""
    word = phrase.lower().split()[-1] if phrase.split() else ""
    endings = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"))
    return {word} | {word.removesuffix(end) + new for end, new in endings if word.endswith(end)}
