"""What is said of things that are not there: of targets of which nothing was drawn, and of nothing else.

The language model announces a target before anything is looked for, so the picture has the last word. It may
also deny what nobody has asked for; that is not passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pixellm_model.engine.phrases import forms

MAX_QUOTED = 60  # characters of a prompt
_DENIAL = re.compile(r"\bThere (?:is|are) no (.+?)(?: in this image)?\.", re.S)
_AND_NO = re.compile(r"(?:,|,? and|,? or) (?:no )?")
# Words that an answer may add to a prompt: "the left cup" is a "cup on the left".
_SMALL_WORDS = frozenset(["a", "an", "the", "on", "of", "in", "at", "to"])


def deny_undrawn(texts: Sequence[str], phrases: Sequence[str], drawn: Sequence[bool]) -> str:
    """The answer with `[1]`, `[2]` for the targets that were drawn, and the others denied.

    Args:
        texts: what the model said before, between and after its targets.
        phrases: what names each target.
        drawn: whether anything was drawn of each; of at least one nothing was.

    Returns:
        The answer in the model's usual form; what it said after the last target is kept.

    >>> deny_undrawn(["cup is", "and fork is", "."], ["cup", "fork"], [True, False])
    'cup is [1]. There is no fork in this image.'
    """
    kept = [phrase for phrase, there in zip(phrases, drawn, strict=True) if there]
    rest = texts[-1].lstrip(" .,;")
    missing = [
        phrase for phrase in dict.fromkeys(phrases) if phrase not in kept and f"no {phrase}" not in rest
    ]
    sentences = []
    if kept:
        sentences.append(_listed([f"{phrase} is [{number}]" for number, phrase in enumerate(kept, 1)]) + ".")
    if missing:
        sentences.append(absent(missing))
    return " ".join([*sentences, rest]).strip()


def absent(phrases: Sequence[str]) -> str:
    """The sentence that denies some phrases, at least one.

    >>> absent(["cup", "fork"])
    'There is no cup and no fork in this image.'
    """
    return f"There is {_listed([f'no {phrase}' for phrase in phrases])} in this image."


def deny_what_was_asked(answer: str, found: bool, typed: str, words: Iterable[str]) -> str:
    """The answer without denials of what nobody has asked for.

    Args:
        answer: The answer.
        found: Whether it has targets.
        typed: The prompt as typed.
        words: The words of the prompt, as the model may repeat them.

    Returns:
        The answer; in the place of a denial with other words, that nothing was found for the prompt.

    >>> deny_what_was_asked("There is no pot and no cup in this image.", False, "@ cup", ["cup"])
    'There is no cup in this image.'
    >>> deny_what_was_asked("There is no pot in this image.", False, "the  cups", ["the", "cups"])
    'Nothing was found for "the cups".'
    """
    known = {form for word in words for form in forms(word)}
    foreign = False

    def checked(match: re.Match[str]) -> str:
        nonlocal foreign
        phrases = _AND_NO.split(match[1])
        kept = [
            phrase
            for phrase in phrases
            if all(word in _SMALL_WORDS or forms(word) & known for word in phrase.lower().split())
        ]
        foreign |= not kept
        return match[0] if kept == phrases else absent(kept) if kept else ""

    checked_answer = " ".join(_DENIAL.sub(checked, answer).split()) if "no " in answer else answer
    if not foreign:
        return checked_answer
    prompt = " ".join(typed.split()).replace('"', "'")
    if len(prompt) > MAX_QUOTED:
        prompt = f"{prompt[:MAX_QUOTED].rstrip()}..."
    nothing = f'Nothing {"more " if found else ""}was found for "{prompt}".'
    return f"{checked_answer} {nothing}".strip()


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
