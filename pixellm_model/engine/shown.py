"""What is shown of an answer: no mask twice, no more than a limit, nothing that the answer itself denies."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence

import numpy as np
import torch

from pixellm_model.config import PixelLMConfig
from pixellm_model.engine.absence import absent, deny_undrawn
from pixellm_model.engine.answers import Segmentation, Target, display_text
from pixellm_model.engine.instances import take_apart
from pixellm_model.engine.masks import finish_targets
from pixellm_model.engine.phrases import asks_for_each, denied_targets, name_targets
from pixellm_model.errors import PromptError
from pixellm_model.preprocess import ProcessedImage

_DENIED = re.compile(r"\bno (.+?)(?: in this image)?\.?$")
SAME_IOU = 0.9  # masks that overlap so much are of one thing
EACH_SHARE = 0.1  # of the largest part's area, for a part of a mask that is asked for one by one


def shown_answer(
    texts: Sequence[str],
    question: str,
    low_res: torch.Tensor,
    image: ProcessedImage,
    config: PixelLMConfig,
    limit: int,
    asked: str = "",
    undivided: Container[str] = (),
) -> tuple[str, list[Target], tuple[str, ...]]:
    """Choose and draw what is shown of an answer, and number its text accordingly.

    Args:
        texts: What the model said before, between and after its targets.
        question: What the model was asked.
        low_res: (n, m, m), the targets' logits over the padded square.
        image: The image.
        config: The model's.
        limit: The most targets that are shown; only these are drawn at the image's size.
        asked: The prompt as typed, if the question is another wording of it.
        undivided: Phrases of what has no instances, such as the sky.

    Returns:
        The answer with `[1]`, `[2]` for the targets, the targets, and sentences for people.
    """
    phrases, denied = name_targets(texts, question), denied_targets(texts)
    unique, notes = _unique(phrases, low_res)
    chosen = unique[:limit]
    if len(unique) > limit:
        notes.append(_limited(len(unique), limit))
    if len(chosen) < len(phrases) or any(denied):
        texts = usual_texts([phrases[index] for index in chosen], texts[-1])
    named = [phrases[index] for index in chosen]
    shares = [_part_share(phrase, named, asked or question, config, undivided) for phrase in named]
    texts, parts, logits = take_apart(texts, named, low_res[chosen], shares, limit)
    if not config.part_share:
        notes += [
            f'"{phrase}" was drawn as one mask; each separate part is shown on its own.'
            for phrase in named
            if parts.count(phrase) > named.count(phrase)
        ]
    targets = finish_targets(parts, logits, image, config)
    # The language model announces a target before anything is looked for; the picture has the last word.
    drawn = [bool(target.mask.any()) for target in targets]
    answer = display_text(texts) if all(drawn) else deny_undrawn(texts, parts, drawn)
    return answer, [target for target, there in zip(targets, drawn, strict=True) if there], tuple(notes)


def _part_share(
    phrase: str, phrases: Sequence[str], question: str, config: PixelLMConfig, undivided: Container[str]
) -> float:
    """How large a part of a target has to be to become one of its own; 0 for a target that stays whole."""
    if config.part_share:
        return 0.0 if phrase in undivided else config.part_share
    return EACH_SHARE if phrases.count(phrase) == 1 and asks_for_each(question, phrase) else 0.0


def as_one(answers: Sequence[Segmentation | PromptError], limit: int) -> Segmentation | PromptError:
    """Join the answers to several names of one prompt, asked for one by one.

    Args:
        answers: The answers, in the order of the names.
        limit: The most targets that are shown.

    Returns:
        One answer in the usual form, with the names that were not found at its end; an answer without
        anything for no names; the first error if there is one.
    """
    if len(answers) == 1:
        return answers[0]
    segmentations: list[Segmentation] = []
    for answer in answers:
        if isinstance(answer, PromptError):
            return answer
        segmentations.append(answer)
    targets = [target for each in segmentations for target in each.targets]
    denials = [each.answer for each in segmentations if not each.targets]
    missing = [match[1] for denial in denials if (match := _DENIED.search(denial))]
    notes = [warning for each in segmentations for warning in each.warnings]
    if len(targets) > limit:
        notes.append(_limited(len(targets), limit))
        del targets[limit:]
    rest = f". {absent(missing)}" if missing else "."
    return Segmentation(
        display_text(usual_texts([target.phrase for target in targets], rest)) if targets or missing else "",
        tuple(targets),
        tuple(dict.fromkeys([*notes, *_same_masks(targets)])),
        dict(segmentations[0].timings) if segmentations else {},
    )


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
        notes |= dict.fromkeys(_same_mask(phrases[earlier], phrase) for earlier in copies)
    return unique, list(notes)


def _same_masks(targets: Sequence[Target]) -> Iterator[str]:
    """Yield what to say of targets of different phrases with the same mask."""
    for number, target in enumerate(targets):
        for earlier in targets[:number]:
            if earlier.phrase != target.phrase and _share_a_mask(earlier, target):
                yield _same_mask(earlier.phrase, target.phrase)


def _share_a_mask(first: Target, second: Target) -> bool:
    # Boxes first: masks of large photos are large.
    x0, y0 = (max(edges) for edges in zip(first.box[:2], second.box[:2], strict=True))
    x1, y1 = (min(edges) for edges in zip(first.box[2:], second.box[2:], strict=True))
    if x1 <= x0 or y1 <= y0:
        return False
    shared = np.count_nonzero(first.mask[y0:y1, x0:x1] & second.mask[y0:y1, x0:x1])
    areas = np.count_nonzero(first.mask) + np.count_nonzero(second.mask)
    return shared >= SAME_IOU * (areas - shared)


def _same_mask(first: str, second: str) -> str:
    return f'"{first}" and "{second}" have the same mask; check which of them it is.'


def _limited(count: int, limit: int) -> str:
    return f"The answer has {count} targets; only the first {limit} are shown."
