"""What is said of targets of which nothing was drawn: that they are not there.

The language model announces a target before anything is looked for, so the picture has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence


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


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
