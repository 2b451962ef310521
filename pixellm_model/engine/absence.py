"""What is said of targets of which nothing was drawn: that they are not there.

The language model announces a target before anything is looked for. With a pyramid, whose presence may leave
a mask empty, the picture has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence

from pixellm_model.engine.answers import Target, display_text


def without_undrawn(
    texts: Sequence[str], targets: Sequence[Target], deny: bool = True
) -> tuple[str, list[Target]]:
    """Deny the targets of which nothing was drawn, and leave them out.

    Args:
        texts: What the model said before, between and after its targets.
        targets: The targets, in the order of the answer.
        deny: False keeps them all.

    Returns:
        The answer and the targets that were drawn; the model's own words if all were.
    """
    drawn = [bool(target.mask.any()) for target in targets]
    if not deny or all(drawn):
        return display_text(texts), list(targets)
    answer = deny_undrawn(texts, [target.phrase for target in targets], drawn)
    return answer, [target for target, there in zip(targets, drawn, strict=True) if there]


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
        sentences.append(f"There is {_listed([f'no {phrase}' for phrase in missing])} in this image.")
    return " ".join([*sentences, rest]).strip()


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
