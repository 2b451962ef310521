"""Maps the words of a prompt or an answer to labels of the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import takewhile

from label_config.config import LabelConfig

# Names of a label for everything else, in lower case.
CATCH_ALL = ("other", "object", "unknown")

_Words = tuple[str, ...]  # in lower case, without punctuation


def _words(text: str) -> _Words:
    """Split a text into words."""
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


_IRREGULAR_PLURALS = {
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
# A phrase's head noun stands before the first of these: "the cup on the plate" is a cup.
_MODIFIER_STARTS = frozenset(
    _words(
        "about above across against along among around as at behind below beneath beside between beyond "
        "by for from in inside into near next of off on onto opposite out outside over past that through "
        "to toward towards under underneath up upon which while who whose with within without and or is "
        "are was were being carrying driving eating facing flying hanging having holding looking lying "
        "playing reading riding running sitting sleeping standing talking touching using walking "
        "watching wearing"
    )
)
# After one of these, the head noun follows "of": "a pair of cups" are cups, "a bottle of water" is a bottle.
_QUANTIFIERS = frozenset(
    _words(
        "bunch couple crowd dozen flock group herd heap line lot number pack pair part piece pile row "
        "set stack type kind all any both each every few many most none one other rest several some two "
        "three four"
    )
)


def map_label(phrase: str, config: LabelConfig) -> str | None:
    """Return the label for what a phrase names.

    In this order: a label or alias with exactly this text; one with the same words in any case, singular or
    plural; the longest one that ends the phrase's noun ("the two small red mugs on the left" ends in "mugs");
    the label called Other, Object or Unknown; the only label if there is just one.

    Args:
        phrase: What the model calls a target, for example "the red mug".
        config: The project's labeling configuration.

    Returns:
        The value that results carry; None if no label fits.
    """
    label, _ = _find_label(phrase, config)
    return label or fallback_label(config)


def fallback_label(config: LabelConfig) -> str | None:
    """Return the label of phrases that name none.

    Args:
        config: The project's labeling configuration.

    Returns:
        The value of the label with a name in CATCH_ALL, else of the only label; None if there is neither.
    """
    for label in config.labels:
        if any(name.casefold() in CATCH_ALL for name in (label.value, *label.aliases)):
            return label.value
    return config.labels[0].value if len(config.labels) == 1 else None


def labels_in_prompt(prompt: str, config: LabelConfig) -> dict[str, str]:
    """Return the labels that a prompt asks for by name, each with the words that name it.

    "Segment the red mugs and the book" gives {"Cup": "mugs", "Book": "book"}. Nothing falls back to Other
    here.
    """
    labels: dict[str, str] = {}
    for phrase in re.split(r"[,;&+]|\b(?:and|or|plus)\b", prompt):
        label, words = _find_label(phrase, config)
        if label is not None:
            labels.setdefault(label, words)
    return labels


def _find_label(phrase: str, config: LabelConfig) -> tuple[str | None, str]:
    """Return the label that `phrase` names, and the words that name it; (None, "") if it names none."""
    by_text, by_words = _name_indices(config)
    if phrase.strip() in by_text:
        return by_text[phrase.strip()], phrase.strip()
    noun = _head_noun(phrase)
    candidates = [_words(phrase), *(noun[start:] for start in range(len(noun)))]
    for candidate in candidates:
        for form in _singular_forms(candidate):
            if form in by_words:
                return by_words[form], " ".join(candidate)
    return None, ""


@lru_cache(maxsize=64)
def _name_indices(config: LabelConfig) -> tuple[dict[str, str], dict[_Words, str]]:
    """Return labels by exact text and by words.

    Where names clash, a label's value wins over an alias, then the first one wins.
    """
    names = [(label.value, label.value) for label in config.labels]
    names += [(alias, label.value) for label in config.labels for alias in label.aliases]
    by_text: dict[str, str] = {}
    by_words: dict[_Words, str] = {}
    for name, label in names:
        by_text.setdefault(name, label)
        by_words.setdefault(_words(name), label)
    for name, label in names:
        for form in _singular_forms(_words(name)):
            by_words.setdefault(form, label)
    by_words.pop((), None)
    return by_text, by_words


def _head_noun(phrase: str) -> _Words:
    """Return the words up to the head noun, without what follows it."""
    words = list(_words(re.split(r"[,;:.(\[]", phrase.strip(" ,;:.([\"'"), maxsplit=1)[0]))
    while "of" in words[1:] and words[words.index("of", 1) - 1] in _quantifiers():
        del words[: words.index("of", 1) + 1]
    noun = list(takewhile(lambda word: word not in _MODIFIER_STARTS, words))
    while noun and noun[-1].isdigit():
        noun.pop()
    return tuple(noun)


@lru_cache(maxsize=1)
def _quantifiers() -> frozenset[str]:
    """Return the quantifiers, in singular and plural."""
    return _QUANTIFIERS | {f"{word}s" for word in _QUANTIFIERS}


def _singular_forms(words: _Words) -> Iterator[_Words]:
    """Yield the words as they are, then with each possible singular of the last one."""
    if not words:
        return
    yield words
    *before, last = words
    for singular in _singulars(last):
        yield (*before, singular)


def _singulars(word: str) -> Iterator[str]:
    """Yield each word that `word` may be the plural of."""
    if word in _IRREGULAR_PLURALS:
        yield _IRREGULAR_PLURALS[word]
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
