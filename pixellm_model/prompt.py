"""The conversation template `llava_v1`, to ask and to train with (specification section 5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pixellm_model.config import PixelLMConfig
from pixellm_model.tokenizer import IM_END, IM_START, IMAGE, PromptTokenizer

SEG = "{seg}"  # a target in a training answer
MARK = re.compile(r"\[\d+\]|" + re.escape(SEG))  # also as displayed: "mug is [1] and book is [2]."


def build_prompt(
    config: PixelLMConfig, tokenizer: PromptTokenizer, prompt: str, history: Sequence[tuple[str, str]] = ()
) -> str:
    """The text the model continues; earlier (prompt, answer) turns stand before the new question.

    Markers `[1]`, `[2]` or `{seg}` of earlier answers become codebook tokens again, since that is what the
    model said. Anything that reads as a special token is removed from what people typed.
    """
    text = f"{config.system_prompt} USER: {IM_START}{IMAGE}{IM_END}\n".lstrip()
    for asked, answered in history:
        said = MARK.sub(lambda _: tokenizer.codebook.text, tokenizer.clean(answered))
        text += f"{tokenizer.clean(asked)} ASSISTANT: {said}{tokenizer.eos_text}USER: "
    return f"{text}{tokenizer.clean(prompt)} ASSISTANT:"


def training_text(tokenizer: PromptTokenizer, answer: str) -> str:
    """An answer with `{seg}` placeholders as it follows `ASSISTANT:`, end token included."""
    return " " + answer.replace(SEG, tokenizer.codebook.text)
