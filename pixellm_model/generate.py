"""Greedy decoding with a key/value cache that keeps what the codebook needs.

The reference has no cache: it runs the tower and the whole prompt again for every token. Two things must
survive the change: padded image tokens stay hidden in every step, and positions count them all the same
(specification sections 4.4 and 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import DynamicCache

from pixellm_model.model import IMAGE_ID, ImageFeatures, PixelLM


@dataclass(frozen=True)
class Generation:
    """`ids` are the n new tokens (the end token included); `hidden` (n, D) is what predicted each."""

    ids: list[int]
    hidden: torch.Tensor
    finished: bool


def key_mask(ids: list[int], token_mask: torch.Tensor, pad_id: int | None) -> torch.Tensor:
    """Keys the language model may see: (len(ids) - 1 + t*t,) bool, the image's mask in place of the image."""
    at = ids.index(IMAGE_ID)
    text = torch.tensor([i != pad_id for i in ids], device=token_mask.device)
    return torch.cat([text[:at], token_mask, text[at + 1 :]])


@torch.inference_mode()
def generate(
    model: PixelLM,
    ids: list[int],
    image: ImageFeatures,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int | None = None,
) -> Generation:
    """Continue `ids` (with one IMAGE_ID) for one image until the end token or `max_new_tokens`."""
    embeds = model.embed(ids, image.tokens[0])[None]  # (1, T + t*t - 1, D)
    mask = key_mask(ids, image.token_mask[0], pad_id)[None].long()
    cache = DynamicCache(config=model.model.config)
    state = _step(model, embeds, mask, 0, cache)
    new_ids: list[int] = []
    hidden: list[torch.Tensor] = []
    while len(new_ids) < max_new_tokens:
        hidden.append(state)
        token = int(model.lm_head(state).argmax())
        new_ids.append(token)
        if token == eos_id or len(new_ids) == max_new_tokens:
            break
        position = mask.shape[1]
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
        embeds = model.model.embed_tokens(torch.tensor([[token]], device=model.device))
        state = _step(model, embeds, mask, position, cache)
    return Generation(new_ids, torch.stack(hidden), bool(new_ids) and new_ids[-1] == eos_id)


def _step(
    model: PixelLM, embeds: torch.Tensor, mask: torch.Tensor, start: int, cache: DynamicCache
) -> torch.Tensor:
    """Run (1, n, D) embeddings at positions `start`..; returns the last hidden state (D,)."""
    positions = torch.arange(start, start + embeds.shape[1], device=embeds.device)[None]
    output = model.model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state[0, -1]
