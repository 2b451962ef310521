"""Follow-up questions about an image, after an earlier answer.

Of the earlier answer's targets, "only the left one" keeps one and "without the cup" drops some. "and the book
too" adds to them, so its answer names all of them again. "now the book" replaces them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pixellm_model.samples import Mask, Question
from pixellm_model.synthetic.templates import INSTEAD, ONLY, PLACES, SIZES, TOO, WITHOUT
from pixellm_model.synthetic.things import Thing, extreme_by_area, outermost

FOLLOW_UP_RATE = 0.4  # of the questions get a follow-up, and so do that share of the follow-ups
MAX_TURNS = 3

Found = list[tuple[str, Mask]]  # phrases with their masks


class Asker(Protocol):
    """What follow-ups need; `questions.Questioner` is one."""

    rng: np.random.Generator
    names: list[str]

    def pick(self, options: Sequence[str]) -> str:
        """Return one of the options at random."""
        ...

    def called(self, name: str) -> list[Thing]:
        """Return the things in the image that a name fits."""
        ...

    def absent_names(self, count: int) -> list[str]:
        """Return at most `count` random names of things that are not in the image."""
        ...

    def question(
        self, text: str, found: Found, missing: Sequence[str] = (), history: tuple[tuple[str, str], ...] = ()
    ) -> Question | None:
        """Make a question with its answer, or return None if it is ambiguous or cannot be asked."""
        ...


def with_follow_ups(asker: Asker, first: Question) -> Question:
    """The question itself, or a follow-up some turns later."""
    question = first
    while len(question.history) < MAX_TURNS and asker.rng.random() < FOLLOW_UP_RATE:
        next_question = follow_up(asker, question)
        if next_question is None:
            break
        question = next_question
    return question


def follow_up(asker: Asker, first: Question) -> Question | None:
    """A follow-up to `first` of a random kind; None if that kind does not fit."""
    kinds = list(KIND_RATES)
    return kinds[int(asker.rng.choice(len(kinds), p=list(KIND_RATES.values())))](asker, first)


def keep_one(asker: Asker, first: Question) -> Question | None:
    """One of the targets by its place or size, if that is clear."""
    if len(first.masks) < 2:
        return None
    targets = [Thing(phrase, mask) for phrase, mask in zip(first.phrases, first.masks, strict=True)]
    if asker.rng.random() < 0.7:
        where, most, axis, greatest = PLACES[int(asker.rng.integers(len(PLACES)))]
        chosen, place = outermost(targets, axis, greatest), where
        words = asker.pick((most, where.split()[-1]))
    else:
        words, greatest = SIZES[int(asker.rng.integers(len(SIZES)))]
        chosen, place = extreme_by_area(targets, greatest), f"that is {words}"
    if chosen is None:
        return None
    text = asker.pick(ONLY).format(x=words, w=place)
    return asker.question(text, [(chosen.name, chosen.mask)], (), turns(first))


def add_one(asker: Asker, first: Question) -> Question | None:
    """Another thing, which may be absent; the targets so far are answered again."""
    return _another(asker, first, TOO, list(zip(first.phrases, first.masks, strict=True)))


def replace_with(asker: Asker, first: Question) -> Question | None:
    """Another thing in place of the targets so far; it may be absent."""
    return _another(asker, first, INSTEAD, [])


def drop_some(asker: Asker, first: Question) -> Question | None:
    """All targets except those of one phrase."""
    phrases = list(dict.fromkeys(first.phrases))
    if len(phrases) < 2:
        return None
    left_out = asker.pick(phrases)
    remaining = [(p, mask) for p, mask in zip(first.phrases, first.masks, strict=True) if p != left_out]
    return asker.question(asker.pick(WITHOUT).format(x=left_out), remaining, (), turns(first))


def turns(first: Question) -> tuple[tuple[str, str], ...]:
    """The history of a follow-up to `first`."""
    return (*first.history, (first.text, first.answer))


def _another(asker: Asker, first: Question, texts: tuple[str, ...], targets: Found) -> Question | None:
    """A question for a name that `first` did not answer, with `targets` answered again before it."""
    answered = {id(mask) for mask in first.masks}
    new_names = [n for n in asker.names if not any(id(thing.mask) in answered for thing in asker.called(n))]
    if new_names and asker.rng.random() < 0.8:
        name = asker.pick(new_names)
        found = [*targets, *((name, thing.mask) for thing in asker.called(name))]
        return asker.question(asker.pick(texts).format(x=name), found, (), turns(first))
    missing = [name for name in asker.absent_names(1) if name not in first.answer]
    if not missing:
        return None
    return asker.question(asker.pick(texts).format(x=missing[0]), targets, missing, turns(first))


KIND_RATES: dict[Callable[[Asker, Question], Question | None], float] = {
    keep_one: 0.3,
    add_one: 0.3,
    drop_some: 0.2,
    replace_with: 0.2,
}
