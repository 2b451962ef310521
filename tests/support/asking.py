"""A request to the decoder without a segmenter around it."""

from __future__ import annotations

from pixellm_model.engine.drafts import Draft
from pixellm_model.engine.generate import DecodeRequest, prefill, split_prompt
from pixellm_model.model import ImageFeatures, PixelLM


def asking(
    model: PixelLM, ids: list[int], image: ImageFeatures, max_new_tokens: int, draft: Draft | None = None
) -> DecodeRequest:
    """The request that `ids`, with one IMAGE_ID, make about the only image of `image`."""
    before, after = split_prompt(ids)
    return DecodeRequest(prefill(model, before, image)[0], after, max_new_tokens, draft)
