"""What is shown of an answer: no mask twice, no more than a limit, nothing that the answer itself denies."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pixellm_model.engine.absence import deny_undrawn
from pixellm_model.engine.answers import Target, display_text
from pixellm_model.engine.instances import each_on_its_own
from pixellm_model.engine.masks import finish_mask
from pixellm_model.engine.phrases import denied_targets, name_targets
from pixellm_model.preprocess import ProcessedImage

SAME_IOU = 0.9  # masks that overlap so much are of one thing


def shown_answer(
    texts: Sequence[str],
    question: str,
    low_res: torch.Tensor,
    image: ProcessedImage,
    image_size: int,
    limit: int,
) -> tuple[str, list[Target], tuple[str, ...]]:
    """Choose and draw what is shown of an answer, and number its text accordingly.

    Args:
        texts: What the model said before, between and after its targets.
        question: What was asked.
        low_res: (n, m, m), the targets' logits over the padded square.
        image: The image.
        image_size: The square's side in pixels.
        limit: The most targets that are shown; only these are drawn at the image's size.

    Returns:
        The answer with `[1]`, `[2]` for the targets, the targets, and sentences for people.
    """
    phrases, denied = name_targets(texts, question), denied_targets(texts)
    unique, notes = _unique(phrases, low_res)
    chosen = unique[:limit]
    if len(unique) > limit:
        notes.append(f"The answer has {len(unique)} targets; only the first {limit} are shown.")
    if len(chosen) < len(phrases) or any(denied):
        texts = usual_texts([phrases[index] for index in chosen], texts[-1])
    targets = [Target(phrases[i], *finish_mask(low_res[i], image, image_size)) for i in chosen]
    # The language model announces a target before anything is looked for; the picture has the last word.
    drawn = [bool(target.mask.any()) for target in targets]
    if not all(drawn):
        answer = deny_undrawn(texts, [target.phrase for target in targets], drawn)
        chosen = [index for index, there in zip(chosen, drawn, strict=True) if there]
        targets = [target for target, there in zip(targets, drawn, strict=True) if there]
    else:
        answer = display_text(texts)
    parts, split_notes = each_on_its_own(
        targets, [low_res[index] for index in chosen], image, image_size, question, limit
    )
    if split_notes:
        answer = display_text(usual_texts([part.phrase for part in parts], texts[-1]))
    return answer, parts, (*notes, *split_notes)


def usual_texts(phrases: Sequence[str], rest: str) -> list[str]:
    """The texts of an answer in its usual form, "cup is B, cup is B and book is B.".

    Args:
        phrases: What names each target.
        rest: What the model said after its last target.

    Returns:
        The texts before, between and after the targets.

    >>> usual_texts(["cup", "book"], ". There is no fork.")
    ['cup is', 'and book is', '. There is no fork.']
    """
    if not phrases:
        return [rest.lstrip(" .,;")]
    last = len(phrases) - 1
    joins = ["" if not number else "and " if number == last else ", " for number in range(len(phrases))]
    named = [f"{join}{phrase} is" for join, phrase in zip(joins, phrases, strict=True)]
    return [*named, rest if rest[:1] in tuple(".;!?") else "."]


def _unique(phrases: Sequence[str], low_res: torch.Tensor) -> tuple[list[int], list[str]]:
    """The targets that are no copy of an earlier one of the same phrase, and what to say of other copies.

    Two phrases with one mask both stay: which of them is right only a person can tell.
    """
    if len(phrases) < 2:
        return list(range(len(phrases))), []
    inside = (low_res > 0).flatten(1).float()
    overlap = inside @ inside.T
    areas = overlap.diagonal()
    union = areas[:, None] + areas - overlap
    same = (overlap >= SAME_IOU * union) & (areas > 0)[:, None]
    unique: list[int] = []
    notes: dict[str, None] = {}
    for index, phrase in enumerate(phrases):
        copies = [earlier for earlier in unique if same[index, earlier]]
        if any(phrases[earlier].lower() == phrase.lower() for earlier in copies):
            continue
        unique.append(index)
        notes |= dict.fromkeys(
            f'"{phrases[earlier]}" and "{phrase}" have the same mask; check which of them it is.'
            for earlier in copies
        )
    return unique, list(notes)
