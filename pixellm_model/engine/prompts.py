"""A request's prompt as token ids."""

from __future__ import annotations

from dataclasses import dataclass

from pixellm_model.engine.generate import split_prompt
from pixellm_model.errors import PromptError
from pixellm_model.model import PixelLM
from pixellm_model.prompt import build_prompt
from pixellm_model.request import Request
from pixellm_model.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt with its history, ready to be answered.

    Attributes:
        ids: The token ids after the image.
        max_new_tokens: The limit of the answer's length in tokens.
    """

    ids: list[int]
    max_new_tokens: int


def encode_prompt(
    model: PixelLM, tokenizer: PromptTokenizer, request: Request, max_new_tokens: int
) -> EncodedPrompt:
    """Encode a request's prompt and history.

    Args:
        model: The model, which limits the length.
        tokenizer: Its tokenizer.
        request: The request.
        max_new_tokens: The limit of the answer's length, if the model has room for it.

    Returns:
        The ids and the limit.

    Raises:
        PromptError: The prompt is empty, or with its history too long for the model.
    """
    if not tokenizer.clean(request.prompt):
        raise PromptError("The prompt is empty; say what to segment.")
    ids = tokenizer.encode(build_prompt(model.config, tokenizer, request.prompt, request.history))
    limit = model.config.llama.max_position_embeddings - len(ids) - model.config.image_tokens
    if limit < 1:
        raise PromptError("The prompt and its history are too long for the model; shorten them.")
    return EncodedPrompt(split_prompt(ids)[1], min(max_new_tokens, limit))
