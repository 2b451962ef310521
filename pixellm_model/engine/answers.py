"""The answer to a prompt: its targets, its displayed text and its warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from pixellm_model.engine.absence import deny_what_was_asked
from pixellm_model.engine.generate import Generation
from pixellm_model.engine.wording import Wording, words_of
from pixellm_model.errors import PromptError
from pixellm_model.masks import Box
from pixellm_model.samples import Mask
from pixellm_model.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class Target:
    """One target of an answer.

    Attributes:
        phrase: the words that name it.
        mask: (H, W) bool at the photo's size.
        score: mean confidence inside the mask, 0..1, or the measured chance that the mask is right, if the
            checkpoint has a calibration; 0 for an empty mask.
        box: Edges x0, y0, x1, y1 in pixels, end exclusive; all 0 for an empty mask.
    """

    phrase: str
    mask: Mask
    score: float
    box: Box


@dataclass(frozen=True)
class Segmentation:
    """The answer to one prompt.

    Attributes:
        answer: the model's text, with `[1]`, `[2]` where target 1, 2 is named.
        targets: the targets in the order of the answer; none if the model found nothing.
        warnings: what is wrong with the answer, as sentences for people.
        timings: seconds per stage ("encode", "generate", "decode") of the batch it was answered in.
        unknown: names in the prompt that the model was never taught; nothing is known of their presence.
    """

    answer: str
    targets: tuple[Target, ...]
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def target_states(generation: Generation, runs: Sequence[int], tokenizer: PromptTokenizer) -> torch.Tensor:
    """The hidden states of the codebook tokens of the runs at `runs`, (n * tokens per target, hidden)."""
    run_length = len(tokenizer.codebook.ids)
    return generation.hidden[[start + offset for start in runs for offset in range(run_length)]]


def texts_between_runs(generation: Generation, runs: Sequence[int], tokenizer: PromptTokenizer) -> list[str]:
    """The len(runs) + 1 texts of an answer between its codebook runs, which start at `runs`."""
    run_length = len(tokenizer.codebook.ids)
    texts, start = [], 0
    for run in [*runs, len(generation.ids)]:
        texts.append(tokenizer.decode(generation.ids[start:run]).strip())
        start = run + run_length
    return texts


def warnings_about(generation: Generation, num_stray: int) -> tuple[str, ...]:
    """What is wrong with an answer that has `num_stray` codebook tokens outside complete runs."""
    warnings = []
    if num_stray:
        warnings.append(
            f"The model left a target unfinished ({num_stray} stray codebook tokens); it is not shown."
        )
    if not generation.finished:
        warnings.append("The answer was cut off at its length limit; ask for fewer things at a time.")
    return tuple(warnings)


def display_text(texts: Sequence[str]) -> str:
    """Join the texts between targets by `[1]`, `[2]`, ..., without a space before punctuation.

    >>> display_text(["mug is", "and book is", "."])
    'mug is [1] and book is [2].'
    """
    answer = texts[0]
    for number, text in enumerate(texts[1:], 1):
        space = "" if text[:1] in {",", ".", ";", ":", "!", "?"} else " "
        answer += f" [{number}]{space}{text}"
    return answer.strip()


def with_notes(answer: Segmentation | PromptError, wording: Wording) -> Segmentation | PromptError:
    """The answer to a prompt, without denials of other things and with notes on how the prompt was read."""
    if isinstance(answer, PromptError):
        return answer
    if wording.typed:
        words = words_of(" ".join((wording.asked, *wording.questions)))
        said = deny_what_was_asked(answer.answer, bool(answer.targets), wording.typed, words)
        answer = replace(answer, answer=said)
    if not wording.notes:
        return answer
    return replace(answer, warnings=(*answer.warnings, *wording.notes), unknown=wording.unknown)
