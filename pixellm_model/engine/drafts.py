"""What an answer will probably say, guessed so that many tokens can be verified in one forward.

Answers repeat themselves: "cup is B." to "the cup" makes "dog is B." likely for "Where is the dog?", and
after a target's first codebook token the other five are all but certain. A wrong draft costs a little time
and changes nothing: see `generate`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pixellm_model.engine.phrases import asked_phrases
from pixellm_model.tokenizer import PromptTokenizer

LONGEST = 32  # tokens ahead: three targets with their names
FOLLOWING = 8  # tokens ahead where only the newest token is known: a target and what comes after it
FORMS = 3  # ways of answering that are remembered for each number of things asked for
_SLOT = "\ue000{}\ue001"  # stands for a phrase in a form; private characters, which no text holds


class Drafts:
    """Remembers the forms of earlier answers, newest first, and what followed each token in them."""

    def __init__(self, tokenizer: PromptTokenizer):
        self._tokenizer = tokenizer
        first, *rest = tokenizer.codebook.ids
        self._after: dict[int, list[int]] = {first: rest}
        self._forms: dict[int, list[str]] = {}

    def about(self, prompt: str) -> Draft:
        """A draft of the answer to `prompt`."""
        phrases = self._phrases(prompt)
        forms = self._forms.get(len(phrases), ())
        return Draft([self._filled(form, phrases) for form in forms], self._after)

    def learn(self, prompt: str, texts: Sequence[str], ids: list[int]) -> None:
        """Take in a finished answer: its ids, and its texts between the codebook runs."""
        for at, token in enumerate(ids[:-1]):
            self._after[token] = ids[at + 1 : at + 1 + FOLLOWING]
        phrases = self._phrases(prompt)
        form = self._tokenizer.codebook.text.join(f" {self._tokenizer.clean(text)} " for text in texts)
        for number, phrase in sorted(enumerate(phrases), key=lambda pair: -len(pair[1])):
            form = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", _SLOT.format(number), form)
        known = self._forms.setdefault(len(phrases), [])
        if form in known:
            known.remove(form)
        known.insert(0, form)
        del known[FORMS:]

    def _phrases(self, prompt: str) -> list[str]:
        return asked_phrases(self._tokenizer.clean(prompt.lower()))

    def _filled(self, form: str, phrases: Sequence[str]) -> list[int]:
        for number, phrase in enumerate(phrases):
            form = form.replace(_SLOT.format(number), phrase)
        return [*self._tokenizer.encode(form.strip())[1:], self._tokenizer.eos_id]


@dataclass(frozen=True)
class Draft:
    """`whole` are answers that may come, the likeliest first; `following` is what follows a token."""

    whole: list[list[int]]
    following: dict[int, list[int]]

    def after(self, answer: list[int]) -> list[int]:
        """What may come after these first tokens of an answer: at most LONGEST tokens, perhaps none."""
        for one in self.whole:
            if len(one) > len(answer) and one[: len(answer)] == answer:
                return one[len(answer) :][:LONGEST]
        return self.following.get(answer[-1], []) if answer else []
