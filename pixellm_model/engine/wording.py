"""Prompts as people type them, for a small model that knows a limited set of words.

A model folder may hold `words.json`: the names that the model was taught, and the other words of its
training prompts. With it a prompt is put into words that the model knows (capitals, one-letter typos) before
the model reads it, and a name that the model was never taught is reported instead of answered by a guess.
Its optional `prompt`, such as "Segment {}.", is the wording that the model answers best: a prompt that only
names things ("cup", "Find the cup and a book.") is put into it; `recipes/pixellm_mini/canonical.py` measures
which wording that is. With its optional `one_by_one` several names are asked for one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

from pixellm_model.engine.phrases import asked_phrases, without_each
from pixellm_model.errors import CheckpointError
from pixellm_model.request import Request

WORDS_FILE = "words.json"
MAX_ONE_BY_ONE = 16  # names; they are answered together
# Shorter words have too many neighbours: "cat" is one letter from "car" and from "cart".
SHORTEST_CORRECTED = 4
SHORTEST_DOUBLED = 3  # of a word with one of its double letter: "bok"
# A wrong letter counts as a typo only if its key lies beside the right one: "bottke" is a bottle, a rocket
# is no racket.
_KEYS = ("qwertyuiop", " asdfghjkl", "  zxcvbnm")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s?$")
# What is no word and no punctuation that a sentence needs: emoji, brackets, tags such as "<b>".
_SYMBOLS = re.compile(r"</?[^\W\d_][^<>]*>|[^\w\s.,;:?!'\u2019&+-]|_")
MAX_NOTED = 5  # names in a note
MAX_NAME = 40  # characters of a name in a note
NO_WORDS = 'Type what to segment, for example "the cup".'
# Where one thing ends and the next one begins: "the cup, the spoon and the book".
_SEPARATOR = re.compile(r"\s*(?:[,;&+]|\band\b|\bor\b)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Wording:
    """A prompt in words that the model knows.

    Attributes:
        prompt: What the model is to read; empty when nothing is left that it knows.
        one_by_one: Prompts to answer in its place, one for each name; empty to answer it as it is.
        unknown: Names the model was never taught, as they were typed, in order.
        corrected: Pairs of a typed word and the known word it was taken for.
        typed: The prompt as typed.
        asked: The prompt as typed, without symbols and with the corrected words.
    """

    prompt: str
    unknown: tuple[str, ...] = ()
    corrected: tuple[tuple[str, str], ...] = ()
    one_by_one: tuple[str, ...] = ()
    typed: str = field(default="", compare=False, repr=False)
    asked: str = field(default="", compare=False, repr=False)

    @property
    def questions(self) -> tuple[str, ...]:
        """What the model is asked; nothing if it knows no name."""
        if self.unknown and not self.prompt:
            return ()
        return self.one_by_one or (self.prompt,)

    def questions_of(self, request: Request) -> list[Question]:
        """What the model is asked in the place of a request."""
        asked = self.asked or request.prompt
        return [Question(request.image, prompt, request.history, asked) for prompt in self.questions]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about it, as sentences."""
        if self.typed and not words_of(self.asked):
            return (NO_WORDS,)
        corrected = list(dict.fromkeys(self.corrected))
        notes = [f'"{_short(typed)}" was read as "{known}".' for typed, known in corrected[:MAX_NOTED]]
        if (more := len(corrected) - MAX_NOTED) > 0:
            notes.append(f"{more} more {'word was' if more == 1 else 'words were'} corrected.")
        if self.unknown:
            unique = list({name.lower(): name for name in reversed(self.unknown)}.values())[::-1]
            names = ", ".join(f'"{_short(name)}"' for name in unique[:MAX_NOTED])
            more = len(unique) - MAX_NOTED
            notes.append(f"This model does not know {names}{f' and {more} more' if more > 0 else ''}.")
        return tuple(notes)


@dataclass(frozen=True)
class Question(Request):
    """A request in words that the model knows.

    Attributes:
        asked: The whole prompt as it was typed, of which `prompt` may be a part in another wording.
    """

    asked: str = ""


class Vocabulary:
    """The words a model was trained on.

    Args:
        names: Names of things, singular and plural; a name may have several words.
        others: All other words of the training prompts ("segment", "the", "red", "please").
        prompt: The wording for bare names, with one "{}" in their place; None leaves them as typed.
        one_by_one: Whether several bare names are asked for one by one in this wording.
        masses: The names of what has no instances, such as the sky.

    Raises:
        ValueError: `prompt` has not exactly one "{}".
    """

    def __init__(
        self,
        names: Iterable[str],
        others: Iterable[str],
        prompt: str | None = None,
        one_by_one: bool = False,
        masses: Iterable[str] = (),
    ) -> None:
        if prompt is not None and prompt.count("{}") != 1:
            raise ValueError(f'the wording "{prompt}" needs exactly one {{}} in the place of the names')
        self._prompt, self._one_by_one = prompt, one_by_one
        self.masses = frozenset(masses)
        self._name_words = {word for name in names for word in words_of(name)}
        self._words = self._name_words | {word for text in others for word in words_of(text)}

    @classmethod
    def from_folder(cls, folder: Path) -> Vocabulary | None:
        """Read the vocabulary of a model folder.

        Returns:
            None when the folder has no `words.json`: such a model takes any words.

        Raises:
            CheckpointError: When the file is not of that form.
        """
        path = folder / WORDS_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text("utf-8"))
            prompt, one_by_one = content.get("prompt"), content.get("one_by_one", False)
            masses = content.get("masses", ())
            return cls(content["names"], content["others"], prompt, one_by_one, masses)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a list of names and other words: {error}.") from error

    def reword(self, prompt: str, report_unknown: bool = True) -> Wording:
        """Put a prompt into words that the model knows.

        Symbols that are no words are dropped, words in capitals become lower case, a word with one wrong
        letter becomes the one name it can be meant for, and a part of the prompt that names something unknown
        is left out and reported. A prompt that only names things is put into the wording that the model
        answers best.

        Args:
            prompt: The prompt as typed.
            report_unknown: Whether to leave out and report unknown names; False for a model that has learned
                further names since.

        Returns:
            The wording; its `prompt` is the same text when every word is known, and empty, with the prompt as
            an unknown name, when there is no word.

        >>> words = Vocabulary(["apple", "cup"], ["the", "segment", "red"])
        >>> words.reword("THE aple and the rocket")
        Wording(prompt='the apple', unknown=('rocket',), corrected=(('aple', 'apple'),), one_by_one=())
        """
        if not prompt.strip():
            return Wording(prompt)
        corrected: list[tuple[str, str]] = []
        text = _without_symbols(prompt)
        if not words_of(text):
            return Wording("", (prompt.strip(),), typed=prompt)
        text = asked = _WORD.sub(lambda match: self._known_form(match, corrected), text)
        parts, separators = _split(text)
        unknown: list[str] = []
        kept: list[str] = []
        for number, part in enumerate(parts):
            if report_unknown and (name := self._unknown_name(part)):
                unknown.append(name)
                continue
            if kept:
                kept.append(separators[number - 1])
            kept.append(part)
        if unknown:
            text = "".join(kept).strip()
        wording = Wording(text, tuple(unknown), tuple(corrected), typed=prompt, asked=asked)
        return self._in_best_wording(wording)

    def _in_best_wording(self, wording: Wording) -> Wording:
        """The wording that the model answers best; as it is if the prompt does more than name things.

        "All the dogs" only names them here: what is drawn as one mask is split for the prompt as typed.
        """
        names = [without_each(name.lower()) for name in asked_phrases(wording.prompt)]
        if self._prompt is None or not names or not all(map(self._is_bare_name, names)):
            return wording
        *most, last = [f"the {name}" for name in names]
        several = self._one_by_one and 1 < len(names) <= MAX_ONE_BY_ONE
        return replace(
            wording,
            prompt=self._prompt.format(f"{', '.join(most)} and {last}" if most else last),
            one_by_one=tuple(self._prompt.format(f"the {name}") for name in names) if several else (),
        )

    def _is_bare_name(self, part: str) -> bool:
        only_words = not _WORD.sub("", part).strip()
        return only_words and all(
            word in self._name_words or word not in self._words for word in words_of(part)
        )

    def _known_form(self, match: re.Match[str], corrected: list[tuple[str, str]]) -> str:
        typed = match.group()
        lower = typed.lower()
        if lower in self._words:
            # "Segment" may begin a sentence; anything else in capitals is only loud.
            starts_sentence = not match.string[: match.start()].strip() and typed == typed.capitalize()
            return typed if starts_sentence and typed != typed.upper() else lower
        if _POSSESSIVE.sub("", lower) in self._name_words:  # "the cat's ear" is no cat
            return lower
        for typos, words in (
            (_slips_of(lower), self._name_words),
            (_swaps_of(lower), self._words - self._name_words),
            (_typos_of(lower), self._name_words),
        ):
            near = words.intersection(typos)
            if len(near) == 1:
                (meant,) = near
                if words is self._name_words:  # that "teh" is "the" needs no telling
                    corrected.append((typed, meant))
                return meant
        return typed

    def _unknown_name(self, part: str) -> str:
        """The words of `part` that name something unknown; empty when it names nothing, or something known.

        An unknown word beside a known name describes it ("the shiny cup"); one without such a name is taken
        to be the name itself.
        """
        words = [match.group() for match in _WORD.finditer(part)]
        unknown: list[str] = []
        for word in words:
            lower = word.lower()
            if lower in self._name_words:
                return ""
            if lower not in self._words:
                unknown.append(word)
        return " ".join(unknown)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case.

    >>> words_of("The T-shirt, please!")
    ['the', 't-shirt', 'please']
    """
    return [match.group().lower() for match in _WORD.finditer(text)]


def _without_symbols(prompt: str) -> str:
    """A prompt without emoji, tags and the like.

    >>> _without_symbols("the <b>cup</b> / book *now*"), _without_symbols("Segment  the cup.")
    ('the cup book now', 'Segment  the cup.')
    """
    cleaned = _SYMBOLS.sub(" ", prompt)
    return prompt if cleaned == prompt else " ".join(cleaned.split())


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."


def _split(text: str) -> tuple[list[str], list[str]]:
    ends = [(match.start(), match.end()) for match in _SEPARATOR.finditer(text)]
    borders = [0, *(place for end in ends for place in end), len(text)]
    pieces = [text[start:stop] for start, stop in pairwise(borders)]
    return pieces[::2], pieces[1::2]


def _slips_of(word: str) -> Iterator[str]:
    """What was meant if one of the likeliest typos was made: letters swapped, a double letter typed once."""
    for place in range(1, len(word)):
        yield word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
        if len(word) >= SHORTEST_DOUBLED:
            yield word[:place] + word[place] + word[place:]


def _swaps_of(word: str) -> Iterator[str]:
    """What was meant if two letters were swapped; words of two letters ("no", "on") are left alone."""
    if len(word) > 2:
        for place in range(len(word) - 1):
            yield word[:place] + word[place : place + 2][::-1] + word[place + 2 :]


def _typos_of(word: str) -> Iterator[str]:
    """What may have been meant by a word with one typo; the first letter is taken to be right."""
    first, rest = word[:1], word[1:]
    for place in range(len(rest) + 1):
        before, after = first + rest[:place], rest[place:]
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
        if len(word) < SHORTEST_CORRECTED:
            continue
        if after:
            yield before + after[1:]
            for letter in _neighbours(after[0]):
                yield before + letter + after[1:]
        for letter in ascii_lowercase:
            yield before + letter + after


@cache
def _neighbours(letter: str) -> str:
    """The keys beside and next above and below a letter on a QWERTY keyboard."""
    places = {key: (row, column) for row, keys in enumerate(_KEYS) for column, key in enumerate(keys)}
    if letter not in places:
        return ""
    row, column = places[letter]
    near = {(row, column - 1), (row, column + 1), (row - 1, column), (row - 1, column + 1)}
    near |= {(row + 1, column), (row + 1, column - 1)}
    return "".join(key for key, place in places.items() if place in near and key.strip())
