"""Greedy speculative decoding from cached prefixes, for a batch of prompts.

The phases are `prefill`, once per image, and then `decode_step` and `verify_draft` until every answer ends.

The reference has no key/value cache: it runs the tower and the whole prompt again for every token. Two of its
properties must survive the change (docs/model.md): padded image tokens stay hidden in every step, and
positions count them all the same.

Draft tokens (`drafts.py`) are fed together with the tokens already known, from the prompt on. The same
forward predicts what follows each of them. The draft is accepted up to its first token that differs from the
model's prediction; the rest is discarded. The answer is therefore that of decoding token by token, up to
rounding: matrix products of another width may be summed in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from pixellm_model.engine.drafts import Draft
from pixellm_model.engine.prefix_cache import Prefix
from pixellm_model.model import IMAGE_ID, ImageFeatures, PixelLM

CACHE_GROWTH = 64  # slots by which a full layer of the key/value cache grows


@dataclass(frozen=True)
class Generation:
    """A decoded answer.

    Attributes:
        ids: The n new token ids, the end token included.
        hidden: (n, D) the hidden state that predicted each of them.
        finished: Whether the answer ends with the end token, rather than at its length limit.
    """

    ids: list[int]
    hidden: torch.Tensor
    finished: bool


@dataclass(frozen=True)
class DecodeRequest:
    """One prompt about one image, for `generate`.

    Attributes:
        prefix: The image's prefix, from `prefill`.
        ids: The token ids that follow it.
        max_new_tokens: Limit of the answer's length in tokens.
        draft: Draft of the answer; without it tokens are decoded one by one.
    """

    prefix: Prefix
    ids: list[int]
    max_new_tokens: int
    draft: Draft | None = None


def split_prompt(ids: list[int]) -> tuple[list[int], list[int]]:
    """Split a prompt's ids after the token that follows IMAGE_ID.

    Args:
        ids: Token ids with one IMAGE_ID.

    Returns:
        The part that is the same for every prompt, and the rest.
    """
    cut = ids.index(IMAGE_ID) + 2
    return ids[:cut], ids[cut:]


def key_mask(ids: list[int], token_mask: torch.Tensor) -> torch.Tensor:
    """Keys the language model may attend to, with the image's mask in place of IMAGE_ID.

    Args:
        ids: Token ids with one IMAGE_ID.
        token_mask: (t*t,) bool, false for image tokens of padding.

    Returns:
        (len(ids) - 1 + t*t,) bool.
    """
    at = ids.index(IMAGE_ID)
    text = torch.ones(len(ids), dtype=torch.bool, device=token_mask.device)
    return torch.cat([text[:at], token_mask, text[at + 1 :]])


@torch.inference_mode()
def prefill(model: PixelLM, prefix_ids: list[int], image: ImageFeatures) -> list[Prefix]:
    """Run the language model over the prefix of each image.

    Args:
        model: The model.
        prefix_ids: Ids up to the image's end, one of them IMAGE_ID; the same for all images.
        image: Features of B images.

    Returns:
        B prefixes, on the model's device.
    """
    count = len(image.tokens)
    embeds = torch.stack([model.embed(prefix_ids, tokens) for tokens in image.tokens])  # (B, P, D)
    visible = torch.stack([key_mask(prefix_ids, mask) for mask in image.token_mask])  # (B, P)
    cache = _KeyValueCache([_LayerCache() for _ in model.model.layers])
    positions = torch.arange(embeds.shape[1], device=embeds.device).expand(count, -1)
    _forward(model, embeds, positions, visible, cache)
    sources = model.sources(image)
    return [
        Prefix(
            tuple(source[row].clone() for source in sources),
            tuple(layer.view()[0][row].clone() for layer in cache.layers),
            tuple(layer.view()[1][row].clone() for layer in cache.layers),
            visible[row].clone(),
        )
        for row in range(count)
    ]


@torch.inference_mode()
def generate(model: PixelLM, requests: Sequence[DecodeRequest], eos_id: int) -> list[Generation]:
    """Decode the answers to several requests together; a row leaves the batch when its answer ends.

    Args:
        model: The model.
        requests: Their prefixes must be of one length.
        eos_id: Id of the end token.

    Returns:
        One generation per request, in their order.
    """
    rows = [_Row(request, number) for number, request in enumerate(requests)]
    cache = _KeyValueCache.of_prefixes([request.prefix for request in requests])
    visible = torch.stack([request.prefix.visible for request in requests])  # (B, slots)
    answers: dict[int, Generation] = {}
    while rows:
        states, predicted, visible = decode_step(model, rows, visible, cache)
        for index, row in enumerate(rows):
            last = slice(-row.num_predictions, None)
            accepted = verify_draft(row, states[index, last], predicted[index][last], eos_id)
            rejected = len(row.previous) - accepted
            if rejected:
                visible[index, visible.shape[1] - rejected :] = False
        for row in rows:
            if row.done:
                answers[row.number] = Generation(row.ids, torch.stack(row.hidden), row.ids[-1] == eos_id)
        remaining = [index for index, row in enumerate(rows) if not row.done]
        if remaining and len(remaining) < len(rows):
            indices = torch.tensor(remaining, device=model.device)
            visible = visible[indices]
            cache.select(indices)
        rows = [rows[index] for index in remaining]
    return [answers[number] for number in range(len(requests))]


def decode_step(
    model: PixelLM, rows: Sequence[_Row], visible: torch.Tensor, cache: _KeyValueCache
) -> tuple[torch.Tensor, list[list[int]], torch.Tensor]:
    """Feed each row's pending tokens in one forward; shorter rows are padded on the left.

    Args:
        model: The model.
        rows: B rows.
        visible: (B, slots) bool, the cache slots that may be attended to.
        cache: Keys and values; the new ones are appended.

    Returns:
        The hidden states (B, n, D) of the n positions fed, the token predicted at the last positions of each
        row (as many as any row needs), and `visible` extended by n slots.
    """
    width = max(len(row.pending) for row in rows)
    fed = torch.tensor([[0] * (width - len(row.pending)) + row.pending for row in rows], device=model.device)
    lengths = torch.tensor([len(row.pending) for row in rows], device=model.device)
    distance = torch.arange(width - 1, -1, -1, device=model.device)  # from the newest token
    newest = torch.tensor([row.position + len(row.pending) - 1 for row in rows], device=model.device)
    positions = (newest[:, None] - distance).clamp_min(0)
    visible = torch.cat([visible, distance < lengths[:, None]], dim=1)
    states = _forward(model, model.model.embed_tokens(fed), positions, visible, cache)
    num_predictions = max(row.num_predictions for row in rows)
    predicted = model.lm_head(states[:, -num_predictions:]).argmax(-1).tolist()
    return states, predicted, visible


def verify_draft(row: _Row, states: torch.Tensor, predicted: list[int], eos_id: int) -> int:
    """Extend a row's answer by the predicted tokens, up to the first that contradicts its draft.

    Args:
        row: The row; its next pending tokens are set.
        states: (row.num_predictions, D) hidden states that predict tokens.
        predicted: The token that each of them predicts.
        eos_id: Id of the end token.

    Returns:
        How many of the tokens just fed are accepted, the known ones included. The rest is rejected.
    """
    row.previous = row.pending
    num_known = len(row.pending) - row.num_predictions
    accepted = 0
    for state, token in zip(states, predicted, strict=True):
        row.hidden.append(state)
        row.ids.append(token)
        accepted += 1
        if token == eos_id or len(row.ids) == row.request.max_new_tokens:
            row.done = True
            break
        if num_known + accepted < len(row.pending) and row.pending[num_known + accepted] != token:
            break
    row.position += num_known + accepted
    row.feed([token])
    return num_known + accepted


@dataclass
class _Row:
    """One request while it is decoded.

    Attributes:
        request: What is decoded.
        number: Its place among the requests.
        ids: Answer tokens so far.
        hidden: The hidden state (D,) that predicted each of them.
        done: Whether the answer has ended.
        previous: Tokens fed in the previous step.
        pending: Tokens to feed next: known ones, then draft tokens.
        position: Position of the first pending token.
        num_predictions: How many of the last pending tokens predict an answer token.
    """

    request: DecodeRequest
    number: int
    ids: list[int] = field(default_factory=list)
    hidden: list[torch.Tensor] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        self.previous: list[int] = []
        self.position = len(self.request.prefix.visible)
        self.feed(self.request.ids)

    def feed(self, known: list[int]) -> None:
        """Make `known` and the draft that follows it the pending tokens."""
        draft = self.request.draft.tokens_after(self.ids) if self.request.draft else []
        self.pending = [*known, *draft]
        self.num_predictions = 1 + len(draft)


class _LayerCache(CacheLayerMixin):
    """One layer's keys and values, (B, heads, capacity, d), written in place and read as views."""

    def __init__(self, keys: torch.Tensor | None = None, values: torch.Tensor | None = None):
        super().__init__()
        self.used = 0
        if keys is not None and values is not None:
            self.update(keys, values)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = key_states[:, :, :0]
        self.values = value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.used + key_states.shape[2]
        if end > self.keys.shape[2]:
            padding = (0, 0, 0, end + CACHE_GROWTH - self.keys.shape[2])
            self.keys, self.values = F.pad(self.keys, padding), F.pad(self.values, padding)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.view()

    def view(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values in use."""
        assert self.keys is not None and self.values is not None
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch only."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


class _KeyValueCache(Cache):
    layers: list[_LayerCache]

    def __init__(self, layers: list[_LayerCache]):
        super().__init__(layers=layers)

    @classmethod
    def of_prefixes(cls, prefixes: Sequence[Prefix]) -> _KeyValueCache:
        """A copy of the keys and values of several prefixes, as one batch."""
        return cls(
            [
                _LayerCache(
                    torch.stack([prefix.keys[layer] for prefix in prefixes]),
                    torch.stack([prefix.values[layer] for prefix in prefixes]),
                )
                for layer in range(len(prefixes[0].keys))
            ]
        )

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch only."""
        for layer in self.layers:
            layer.select(rows)


def _forward(
    model: PixelLM,
    embeds: torch.Tensor,
    positions: torch.Tensor,
    visible: torch.Tensor,
    cache: _KeyValueCache,
) -> torch.Tensor:
    """Run (B, n, D) embeddings into the newest n of the (B, slots) `visible`; returns states (B, n, D)."""
    count, total = embeds.shape[1], visible.shape[1]
    slots = torch.arange(total, device=visible.device)
    causal = slots[None, :] <= slots[total - count :, None]  # (n, slots)
    mask = causal & visible[:, None, :]
    # A padding query must see something, or its softmax is not finite: it sees itself.
    mask = mask | (slots[None, :] == slots[total - count :, None])
    output = model.model(
        inputs_embeds=embeds,
        attention_mask=mask[:, None],
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state
