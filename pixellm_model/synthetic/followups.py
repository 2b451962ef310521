"""Further turns about an image: what people say after an answer, and what is then to be drawn.

Of an earlier answer's targets "only the left one" keeps one and "without the cup" drops some; "and the book
too" adds to them, so its answer names them all again; "now the book" leaves them behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pixellm_model.samples import Question
from pixellm_model.synthetic.templates import INSTEAD, ONLY, PLACES, SIZES, TOO, WITHOUT
from pixellm_model.synthetic.things import Thing, biggest, outermost

FURTHER = 0.4  # of the questions get another turn, and of these again
MOST_TURNS = 3

Found = list[tuple[str, np.ndarray]]


class Asker(Protocol):
    """What a further turn needs of the one who asks; `questions.Questioner` is one."""

    rng: np.random.Generator
    names: list[str]

    def pick(self, options: Sequence[str]) -> str: ...
    def called(self, name: str) -> list[Thing]: ...
    def absent_names(self, count: int) -> list[str]: ...
    def question(
        self, text: str, found: Found, missing: Sequence[str] = (), history: tuple[tuple[str, str], ...] = ()
    ) -> Question | None: ...


def continued(asker: Asker, first: Question) -> Question:
    """The question itself, or one of some turns later."""
    question = first
    while len(question.history) < MOST_TURNS and asker.rng.random() < FURTHER:
        further = follow_up(asker, question)
        if further is None:
            break
        question = further
    return question


def follow_up(asker: Asker, first: Question) -> Question | None:
    """What might be asked after `first` was answered; None where the kind that was drawn does not fit."""
    kinds = (only, too, without, instead)
    return kinds[int(asker.rng.choice(len(kinds), p=[0.3, 0.3, 0.2, 0.2]))](asker, first)


def only(asker: Asker, first: Question) -> Question | None:
    """One of the targets by its place or size, where that is plain to see."""
    if len(first.masks) < 2:
        return None
    targets = [Thing(phrase, mask) for phrase, mask in zip(first.phrases, first.masks, strict=True)]
    if asker.rng.random() < 0.7:
        where, most, axis, greatest = PLACES[int(asker.rng.integers(len(PLACES)))]
        chosen, place = outermost(targets, axis, greatest), where
        words = asker.pick((most, where.split()[-1]))
    else:
        words, greatest = SIZES[int(asker.rng.integers(len(SIZES)))]
        chosen, place = biggest(targets, greatest), f"that is {words}"
    if chosen is None:
        return None
    text = asker.pick(ONLY).format(x=words, w=place)
    return asker.question(text, [(chosen.name, chosen.mask)], (), turns(first))


def too(asker: Asker, first: Question) -> Question | None:
    """Something more, which may be missing; the targets so far are answered again."""
    return _another(asker, first, TOO, list(zip(first.phrases, first.masks, strict=True)))


def instead(asker: Asker, first: Question) -> Question | None:
    """Something else, which may be missing."""
    return _another(asker, first, INSTEAD, [])


def without(asker: Asker, first: Question) -> Question | None:
    """All targets but those of one phrase."""
    phrases = list(dict.fromkeys(first.phrases))
    if len(phrases) < 2:
        return None
    left_out = asker.pick(phrases)
    kept = [(p, mask) for p, mask in zip(first.phrases, first.masks, strict=True) if p != left_out]
    return asker.question(asker.pick(WITHOUT).format(x=left_out), kept, (), turns(first))


def turns(first: Question) -> tuple[tuple[str, str], ...]:
    """The turns that stand before what follows `first`."""
    return (*first.history, (first.text, first.answer))


def _another(asker: Asker, first: Question, texts: tuple[str, ...], kept: Found) -> Question | None:
    """A name of which nothing was answered yet."""
    drawn = {id(mask) for mask in first.masks}
    fresh = [n for n in asker.names if not any(id(thing.mask) in drawn for thing in asker.called(n))]
    if fresh and asker.rng.random() < 0.8:
        name = asker.pick(fresh)
        found = [*kept, *((name, thing.mask) for thing in asker.called(name))]
        return asker.question(asker.pick(texts).format(x=name), found, (), turns(first))
    missing = [name for name in asker.absent_names(1) if name not in first.answer]
    if not missing:
        return None
    return asker.question(asker.pick(texts).format(x=missing[0]), kept, missing, turns(first))
