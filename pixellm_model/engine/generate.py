"""Greedy decoding from cached prefixes, many prompts at once, a target's codebook tokens in one step.

The reference has no cache: it runs the tower and the whole prompt again for every token. What must survive
the change: padded image tokens stay hidden in every step, and positions count them all the same
(specification sections 4.4 and 9).

What an answer will probably say (`drafts.py`) is fed in one forward with what is known, from the question on.
The same forward says what the model would have said after each of these tokens; from the first that differs
on, the draft is taken back. The tokens are therefore those of decoding one by one.
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

GROWTH = 64  # slots by which a full layer grows


@dataclass(frozen=True)
class Generation:
    """`ids` are the n new tokens (the end token included); `hidden` (n, D) is what predicted each."""

    ids: list[int]
    hidden: torch.Tensor
    finished: bool


@dataclass(frozen=True)
class Question:
    """An image's prefix and the ids that follow it; at most `max_new_tokens` are answered. Without a `draft`
    tokens are fed one by one."""

    prefix: Prefix
    ids: list[int]
    max_new_tokens: int
    draft: Draft | None = None


def split_prompt(ids: list[int]) -> tuple[list[int], list[int]]:
    """Ids with one IMAGE_ID -> those up to the image's end, equal for all prompts, and the rest."""
    cut = ids.index(IMAGE_ID) + 2
    return ids[:cut], ids[cut:]


def key_mask(ids: list[int], token_mask: torch.Tensor) -> torch.Tensor:
    """Keys the language model may see: (len(ids) - 1 + t*t,) bool, the image's mask in place of the image."""
    at = ids.index(IMAGE_ID)
    text = torch.ones(len(ids), dtype=torch.bool, device=token_mask.device)
    return torch.cat([text[:at], token_mask, text[at + 1 :]])


@torch.inference_mode()
def encode_prefixes(model: PixelLM, prefix_ids: list[int], image: ImageFeatures) -> list[Prefix]:
    """The prefix of each image of a batch, all after the same text."""
    count = len(image.tokens)
    embeds = torch.stack([model.embed(prefix_ids, tokens) for tokens in image.tokens])  # (B, P, D)
    visible = torch.stack([key_mask(prefix_ids, mask) for mask in image.token_mask])  # (B, P)
    slots = _SlotCache([_Slots() for _ in model.model.layers])
    positions = torch.arange(embeds.shape[1], device=embeds.device).expand(count, -1)
    _forward(model, embeds, positions, visible, slots)
    sources = model.model.mask_decoder.sources(image.maps)
    return [
        Prefix(
            tuple(source[row].clone() for source in sources),
            tuple(layer.held()[0][row].clone() for layer in slots.layers),
            tuple(layer.held()[1][row].clone() for layer in slots.layers),
            visible[row].clone(),
        )
        for row in range(count)
    ]


@torch.inference_mode()
def generate(model: PixelLM, questions: Sequence[Question], eos_id: int) -> list[Generation]:
    """Answer questions together, each until its end token or limit; an answered one leaves the batch.

    The prefixes must be of one length.
    """
    rows = [_Row(question, number) for number, question in enumerate(questions)]
    answers: dict[int, Generation] = {}
    slots = _SlotCache(
        [
            _Slots(
                torch.stack([q.prefix.keys[n] for q in questions]),
                torch.stack([q.prefix.values[n] for q in questions]),
            )
            for n in range(len(model.model.layers))
        ]
    )
    seen = torch.stack([question.prefix.visible for question in questions])  # (B, slots)
    while rows:
        width = max(len(row.pending) for row in rows)
        fed = torch.tensor(
            [[0] * (width - len(row.pending)) + row.pending for row in rows], device=model.device
        )
        lengths = torch.tensor([len(row.pending) for row in rows], device=model.device)
        back = torch.arange(width - 1, -1, -1, device=model.device)  # distance from the newest token
        newest = torch.tensor([row.position + len(row.pending) - 1 for row in rows], device=model.device)
        positions = (newest[:, None] - back).clamp_min(0)
        seen = torch.cat([seen, back < lengths[:, None]], dim=1)
        states = _forward(model, model.model.embed_tokens(fed), positions, seen, slots)  # (B, width, D)
        asked = max(row.asked for row in rows)
        predicted = model.lm_head(states[:, -asked:]).argmax(-1).tolist()
        for number, row in enumerate(rows):
            kept = row.read(states[number, -row.asked :], predicted[number][-row.asked :], eos_id)
            if kept < len(row.former):  # the draft was wrong from there on: hide what it left in the slots
                seen[number, seen.shape[1] - len(row.former) + kept :] = False
        for row in rows:
            if row.done:
                answers[row.number] = Generation(row.ids, torch.stack(row.hidden), row.ids[-1] == eos_id)
        staying = [number for number, row in enumerate(rows) if not row.done]
        if staying and len(staying) < len(rows):
            index = torch.tensor(staying, device=model.device)
            seen = seen[index]
            for layer in slots.layers:
                layer.select(index)
        rows = [rows[number] for number in staying]
    return [answers[number] for number in range(len(questions))]


@dataclass
class _Row:
    """One question while it is answered. `pending` is fed next, at `position`; the last `asked` of its
    states predict tokens."""

    question: Question
    number: int
    ids: list[int] = field(default_factory=list)
    hidden: list[torch.Tensor] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        self.former: list[int] = []
        self.position = len(self.question.prefix.visible)
        self._feed(self.question.ids)

    def _feed(self, known: list[int]) -> None:
        draft = self.question.draft.after(self.ids) if self.question.draft else []
        self.pending = [*known, *draft]
        self.asked = 1 + len(draft)

    def read(self, states: torch.Tensor, predicted: list[int], eos_id: int) -> int:
        """Take what the fed tokens predict; returns how many of them were rightly fed."""
        self.former = self.pending
        unasked = len(self.pending) - self.asked
        right = 0
        for state, token in zip(states, predicted, strict=True):
            self.hidden.append(state)
            self.ids.append(token)
            right += 1
            if token == eos_id or len(self.ids) == self.question.max_new_tokens:
                self.done = True
                break
            if unasked + right < len(self.pending) and self.pending[unasked + right] != token:
                break
        self.position += unasked + right
        self._feed([token])
        return unasked + right


class _Slots(CacheLayerMixin):
    """One layer's keys and values, (B, heads, room, d), written in place and read as views."""

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
            room = (0, 0, 0, end + GROWTH - self.keys.shape[2])
            self.keys, self.values = F.pad(self.keys, room), F.pad(self.values, room)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.held()

    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def select(self, rows: torch.Tensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


class _SlotCache(Cache):
    layers: list[_Slots]

    def __init__(self, layers: list[_Slots]):
        super().__init__(layers=layers)


def _forward(
    model: PixelLM, embeds: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, slots: _SlotCache
) -> torch.Tensor:
    """Run (B, n, D) embeddings into the newest n of the (B, slots) `seen`; returns their states (B, n, D)."""
    count, total = embeds.shape[1], seen.shape[1]
    age = torch.arange(total, device=seen.device)
    causal = age[None, :] <= age[total - count :, None]  # (n, slots)
    mask = causal & seen[:, None, :]
    # A padding query must see something, or its softmax is not finite: it sees itself.
    mask = mask | (age[None, :] == age[total - count :, None])
    output = model.model(
        inputs_embeds=embeds,
        attention_mask=mask[:, None],
        position_ids=positions,
        past_key_values=slots,
        use_cache=True,
    )
    return output.last_hidden_state
