"""The conversation template `llava_v1`, for asking and for training."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pixellm_model.config import PixelLMConfig
from pixellm_model.samples import PLACEHOLDER
from pixellm_model.tokenizer import IM_END, IM_START, IMAGE, PromptTokenizer

# A target in an earlier answer: as displayed, "mug is [1] and book is [2].", or as in training data.
TARGET_MARK = re.compile(r"\[\d+\]|" + re.escape(PLACEHOLDER))


def build_prompt(
    config: PixelLMConfig, tokenizer: PromptTokenizer, prompt: str, history: Sequence[tuple[str, str]] = ()
) -> str:
    """The text that the model continues.

    Args:
        config: Gives the system prompt.
        tokenizer: Gives the special tokens.
        prompt: What is asked. Special tokens in it, as in the history, are removed.
        history: Earlier (prompt, answer) turns, oldest first. The marks `[1]`, `[2]` or `{seg}` of their
            answers become codebook tokens again, as the model wrote them.

    Returns:
        The text up to and including the last "ASSISTANT:".
    """
    text = f"{config.system_prompt} USER: {IM_START}{IMAGE}{IM_END}\n".lstrip()
    for earlier_prompt, earlier_answer in history:
        answer = TARGET_MARK.sub(lambda _: tokenizer.codebook.text, tokenizer.clean(earlier_answer))
        text += f"{tokenizer.clean(earlier_prompt)} ASSISTANT: {answer}{tokenizer.eos_text}USER: "
    return f"{text}{tokenizer.clean(prompt)} ASSISTANT:"


def training_text(tokenizer: PromptTokenizer, answer: str) -> str:
    """An answer with placeholders as it follows "ASSISTANT:", without the end token."""
    return " " + answer.replace(PLACEHOLDER, tokenizer.codebook.text)
