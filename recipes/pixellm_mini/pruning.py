"""A byte-level BPE tokenizer cut down to the words a small model needs, with compact ids."""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pixellm_model.synthetic.questions import wordings

# Padding, beginning and end of a text: the only special tokens kept, with ids 0, 1 and 2 before and after.
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FIRST_MERGES = 6000
CONTROL = 3  # GGUF's token type of special tokens
CHAT = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. "
    "USER: ASSISTANT: It is, Sure, the segmentation result is , separately."
)


def full_tokenizer(tokens: list[str], merges: list[str], kinds: list[int]) -> Tokenizer:
    """SmolLM's tokenizer from a GGUF's lists."""
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    return _build({token: index for index, token in enumerate(tokens)}, pairs, special)


def _build(vocabulary: dict[str, int], merges: list[tuple[str, str]], special: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def vocabulary_texts(path: Path) -> list[str]:
    """Every text to be tokenised as by the full tokenizer: names, synonyms, wordings, the chat's frame."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    words = [CHAT, *wordings()]
    for entry in entries:
        words += [entry["name"], entry["plural"], entry["category"], *entry.get("synonyms", ())]
    forms = []
    for word in words:
        forms += [word, word.lower(), word.capitalize(), word.title()]
    return [text for form in dict.fromkeys(forms) for text in (form, f" {form}", f" {form}.", f" {form},")]


def prune(
    tokenizer: Tokenizer, texts: list[str], first_merges: int = FIRST_MERGES
) -> tuple[Tokenizer, list[int | None]]:
    """A tokenizer that knows the first merges and all that `texts` need, and the old id of each new one.

    The old id is None for a byte that the full vocabulary lacks. Raises ValueError where a text comes out
    otherwise.
    """
    full = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = full["vocab"]
    merges: list[tuple[str, str]] = [(left, right) for left, right in full["merges"]]
    rank = {pair: index for index, pair in enumerate(merges)}
    used = set(range(first_merges))
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
            used |= set(_merges_of(word, rank))
    kept_merges = [merges[index] for index in sorted(used)]
    tokens = [
        *SPECIAL,
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(left + right for left, right in kept_merges),
    ]
    tokens = list(dict.fromkeys(tokens))
    pruned = _build({token: index for index, token in enumerate(tokens)}, kept_merges, SPECIAL)
    for text in texts:
        if pruned.encode(text).tokens != tokenizer.encode(text).tokens:
            raise ValueError(f"The pruned tokenizer cuts {text!r} otherwise than the full one.")
    return pruned, [vocabulary.get(token) for token in tokens]


def _merges_of(word: str, rank: dict[tuple[str, str], int]) -> list[int]:
    """The merges that BPE applies to a word; with these kept in their order, the word is cut the same."""
    parts, applied = list(word), []
    while len(parts) > 1:
        best = min((rank.get(pair, len(rank)), place) for place, pair in enumerate(pairwise(parts)))
        if best[0] == len(rank):
            break
        parts[best[1] : best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
        applied.append(best[0])
    return applied
