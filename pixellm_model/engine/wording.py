"""Prompts as people type them, for a small model that knows a limited set of words.

A model folder may hold `words.json`: the names that the model was taught, and the other words of its
training prompts. With it a prompt is put into words that the model knows (capitals, one-letter typos) before
the model reads it, and a name that the model was never taught is reported instead of answered by a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

from pixellm_model.errors import CheckpointError

WORDS_FILE = "words.json"
# Shorter words have too many neighbours: "cat" is one letter from "car" and from "cart".
SHORTEST_CORRECTED = 4
# A wrong letter counts as a typo only if its key lies beside the right one: "bottke" is a bottle, a rocket
# is no racket.
_KEYS = ("qwertyuiop", " asdfghjkl", "  zxcvbnm")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# Where one thing ends and the next one begins: "the cup, the spoon and the book".
_SEPARATOR = re.compile(r"\s*(?:[,;&+]|\band\b|\bor\b)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Wording:
    """A prompt in words that the model knows.

    Attributes:
        prompt: What the model is to read; empty when nothing is left that it knows.
        unknown: Names the model was never taught, as they were typed, in order.
        corrected: Pairs of a typed word and the known word it was taken for.
    """

    prompt: str
    unknown: tuple[str, ...] = ()
    corrected: tuple[tuple[str, str], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about it, as sentences."""
        notes = [f'"{typed}" was read as "{known}".' for typed, known in self.corrected]
        if self.unknown:
            names = ", ".join(f'"{name}"' for name in self.unknown)
            notes.append(f"This model does not know {names}.")
        return tuple(notes)


class Vocabulary:
    """The words a model was trained on.

    Args:
        names: Names of things, singular and plural; a name may have several words.
        others: All other words of the training prompts ("segment", "the", "red", "please").
        masses: The names of what has no instances, such as the sky.
    """

    def __init__(self, names: Iterable[str], others: Iterable[str], masses: Iterable[str] = ()) -> None:
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
            return cls(content["names"], content["others"], content.get("masses", ()))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a list of names and other words: {error}.") from error

    def reword(self, prompt: str, report_unknown: bool = True) -> Wording:
        """Put a prompt into words that the model knows.

        Words in capitals become lower case, a word with one wrong letter becomes the one name it can be meant
        for, and a part of the prompt that names something unknown is left out and reported.

        Args:
            prompt: The prompt as typed.
            report_unknown: Whether to leave out and report unknown names; False for a model that has learned
                further names since.

        Returns:
            The wording; its `prompt` is the same text when every word is known.

        >>> words = Vocabulary(["apple", "cup"], ["the", "segment", "red"])
        >>> words.reword("THE aple and the rocket")
        Wording(prompt='the apple', unknown=('rocket',), corrected=(('aple', 'apple'),))
        """
        corrected: list[tuple[str, str]] = []
        text = _WORD.sub(lambda match: self._known_form(match, corrected), prompt)
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
        if not unknown:
            return Wording(text, (), tuple(corrected))
        return Wording("".join(kept).strip(), tuple(unknown), tuple(corrected))

    def _known_form(self, match: re.Match[str], corrected: list[tuple[str, str]]) -> str:
        typed = match.group()
        lower = typed.lower()
        if lower in self._words:
            # "Segment" may begin a sentence; anything else in capitals is only loud.
            starts_sentence = not match.string[: match.start()].strip() and typed == typed.capitalize()
            return typed if starts_sentence and typed != typed.upper() else lower
        for typos in (_slips_of(lower), _typos_of(lower)):
            near = {word for word in typos if word in self._name_words}
            if len(near) == 1:
                (meant,) = near
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


def _split(text: str) -> tuple[list[str], list[str]]:
    ends = [(match.start(), match.end()) for match in _SEPARATOR.finditer(text)]
    borders = [0, *(place for end in ends for place in end), len(text)]
    pieces = [text[start:stop] for start, stop in pairwise(borders)]
    return pieces[::2], pieces[1::2]


def _slips_of(word: str) -> Iterator[str]:
    """What was meant if one of the likeliest typos was made: letters swapped, a double letter typed once."""
    for place in range(1, len(word)):
        yield word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
        if len(word) >= SHORTEST_CORRECTED:
            yield word[:place] + word[place] + word[place:]


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
