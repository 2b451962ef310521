"""A question put to the decoder without a segmenter around it."""

from __future__ import annotations

from pixellm_model.engine.drafts import Draft
from pixellm_model.engine.generate import Question, encode_prefixes, split_prompt
from pixellm_model.model import ImageFeatures, PixelLM


def asking(
    model: PixelLM, ids: list[int], image: ImageFeatures, max_new_tokens: int, draft: Draft | None = None
) -> Question:
    """The question that `ids`, with one IMAGE_ID, ask about the one image of `image`."""
    before, after = split_prompt(ids)
    return Question(encode_prefixes(model, before, image)[0], after, max_new_tokens, draft)
