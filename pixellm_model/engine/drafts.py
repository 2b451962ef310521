"""Draft answers for speculative decoding (Leviathan et al., 2023), taken from earlier answers.

Answers repeat their form: after "cup is B." to "the cup", "dog is B." is likely for "Where is the dog?".
After a target's first codebook token the other five are nearly certain. No second model is needed: a draft is
an earlier answer with the new prompt's phrases filled in. `generate.generate` verifies it, so a wrong draft
costs a little time and does not change the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pixellm_model.engine.phrases import asked_phrases
from pixellm_model.tokenizer import PromptTokenizer

MAX_DRAFT = 32  # draft tokens per forward: about three targets with their names
MAX_CONTINUATION = 8  # draft tokens where only the newest token is known: a target and what follows it
MAX_FORMS = 3  # answer forms remembered per number of phrases in the prompt
_SLOT = "\ue000{}\ue001"  # stands for a phrase in a form; private-use characters, which no text contains


class Drafts:
    """Proposes draft answers and learns from finished ones.

    Remembers the newest answer forms and, per token, which tokens followed it last.
    """

    def __init__(self, tokenizer: PromptTokenizer):
        self._tokenizer = tokenizer
        first, *rest = tokenizer.codebook.ids
        self._continuations: dict[int, list[int]] = {first: rest}
        self._forms: dict[int, list[str]] = {}  # by number of phrases, newest first

    def propose(self, prompt: str) -> Draft:
        """A draft of the answer to `prompt`."""
        phrases = self._phrases(prompt)
        forms = self._forms.get(len(phrases), ())
        return Draft([self._fill(form, phrases) for form in forms], self._continuations)

    def update(self, prompt: str, texts: Sequence[str], ids: list[int]) -> None:
        """Learn from a finished answer.

        Args:
            prompt: What was asked.
            texts: The answer's texts between its codebook runs.
            ids: All token ids of the answer.
        """
        for index, token in enumerate(ids[:-1]):
            self._continuations[token] = ids[index + 1 : index + 1 + MAX_CONTINUATION]
        phrases = self._phrases(prompt)
        form = self._tokenizer.codebook.text.join(f" {self._tokenizer.clean(text)} " for text in texts)
        for number, phrase in sorted(enumerate(phrases), key=lambda pair: -len(pair[1])):
            form = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", _SLOT.format(number), form)
        forms = self._forms.setdefault(len(phrases), [])
        if form in forms:
            forms.remove(form)
        forms.insert(0, form)
        del forms[MAX_FORMS:]

    def _phrases(self, prompt: str) -> list[str]:
        return asked_phrases(self._tokenizer.clean(prompt.lower()))

    def _fill(self, form: str, phrases: Sequence[str]) -> list[int]:
        for number, phrase in enumerate(phrases):
            form = form.replace(_SLOT.format(number), phrase)
        return [*self._tokenizer.encode(form.strip())[1:], self._tokenizer.eos_id]


@dataclass(frozen=True)
class Draft:
    """A guess at an answer.

    Attributes:
        candidates: Token ids of whole answers, the likeliest first.
        continuations: Per token id, the ids that followed it last; used where no candidate fits.
    """

    candidates: list[list[int]]
    continuations: dict[int, list[int]]

    def tokens_after(self, answer: list[int]) -> list[int]:
        """Draft tokens after the first tokens of an answer: at most MAX_DRAFT, possibly none."""
        for candidate in self.candidates:
            if len(candidate) > len(answer) and candidate[: len(answer)] == answer:
                return candidate[len(answer) :][:MAX_DRAFT]
        return self.continuations.get(answer[-1], []) if answer else []
