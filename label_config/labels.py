"""From the words of a prompt or an answer to a label of the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import takewhile

from label_config.reader import LabelConfig

CATCH_ALL = ("other", "object", "unknown")

_Name = tuple[str, ...]


def _words(text: str) -> _Name:
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "oxen": "ox",
}
# What follows one of these describes the thing and does not name it: "the cup on the plate" is a cup.
_DESCRIBING = frozenset(
    _words(
        "about above across against along among around as at behind below beneath beside between beyond "
        "by for from in inside into near next of off on onto opposite out outside over past that through "
        "to toward towards under underneath up upon which while who whose with within without and or is "
        "are was were being carrying driving eating facing flying hanging having holding looking lying "
        "playing reading riding running sitting sleeping standing talking touching using walking "
        "watching wearing"
    )
)
# "A pair of cups" are cups, unlike "a bottle of water".
_COLLECTIVE = frozenset(
    _words(
        "bunch couple crowd dozen flock group herd heap line lot number pack pair part piece pile row "
        "set stack type kind all any both each every few many most none one other rest several some two "
        "three four"
    )
)


def map_label(phrase: str, config: LabelConfig) -> str | None:
    """The label value that results carry for what `phrase` names.

    In this order: a label's or alias's exact text; the same words in any case, singular or plural; the
    longest name that ends the phrase's noun ("the two small red mugs on the left" ends in "mugs"). A phrase
    that names no label gets the label called Other, Object or Unknown, else the only label if there is just
    one, else None.
    """
    label, _ = _named(phrase, config)
    return label or _fallback(config)


def labels_asked(prompt: str, config: LabelConfig) -> dict[str, str]:
    """The labels that a prompt asks for by name, each with the words that name it: {"Cup": "mugs", "Book":
    "book"} for "segment the red mugs and the book". Nothing falls back to Other here."""
    asked: dict[str, str] = {}
    for phrase in re.split(r"[,;&+]|\b(?:and|or|plus)\b", prompt):
        label, words = _named(phrase, config)
        if label is not None:
            asked.setdefault(label, words)
    return asked


def _named(phrase: str, config: LabelConfig) -> tuple[str | None, str]:
    """The label that `phrase` names, if any, and its words that do."""
    exact, names = _indices(config)
    if phrase.strip() in exact:
        return exact[phrase.strip()], phrase.strip()
    noun = _noun(phrase)
    candidates = [_words(phrase), *(noun[start:] for start in range(len(noun)))]
    for candidate in candidates:
        for form in _forms(candidate):
            if form in names:
                return names[form], " ".join(candidate)
    return None, ""


@lru_cache(maxsize=64)
def _indices(config: LabelConfig) -> tuple[dict[str, str], dict[_Name, str]]:
    """Text to label, words to label. Where names clash, a label's own beats an alias, then the first."""
    named = [(label.value, label.value) for label in config.labels]
    named += [(alias, label.value) for label in config.labels for alias in label.aliases]
    exact: dict[str, str] = {}
    names: dict[_Name, str] = {}
    for name, label in named:
        exact.setdefault(name, label)
        names.setdefault(_words(name), label)
    for name, label in named:
        for form in _forms(_words(name)):
            names.setdefault(form, label)
    names.pop((), None)
    return exact, names


def _noun(phrase: str) -> _Name:
    """The words up to and with the head noun: no clause after it, no number behind it."""
    words = list(_words(re.split(r"[,;:.(\[]", phrase.strip(" ,;:.([\"'"), maxsplit=1)[0]))
    while "of" in words[1:] and words[words.index("of", 1) - 1] in _collectives():
        del words[: words.index("of", 1) + 1]
    noun = list(takewhile(lambda word: word not in _DESCRIBING, words))
    while noun and noun[-1].isdigit():
        noun.pop()
    return tuple(noun)


@lru_cache(maxsize=1)
def _collectives() -> frozenset[str]:
    return _COLLECTIVE | {f"{word}s" for word in _COLLECTIVE}


def _forms(words: _Name) -> Iterator[_Name]:
    """The words as they are, then with the last one as each singular it may be the plural of."""
    if not words:
        return
    yield words
    *before, last = words
    for singular in _singulars(last):
        yield (*before, singular)


def _singulars(word: str) -> Iterator[str]:
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    if len(word) < 3 or not word.endswith("s") or word.endswith("ss"):
        return
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("ves"):
        yield word[:-3] + "f"
        yield word[:-3] + "fe"
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        yield word[:-2]
    yield word[:-1]


def _fallback(config: LabelConfig) -> str | None:
    for label in config.labels:
        if any(name.casefold() in CATCH_ALL for name in (label.value, *label.aliases)):
            return label.value
    return config.labels[0].value if len(config.labels) == 1 else None
