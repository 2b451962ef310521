"""Which labels a prompt asks for in full: by name, and without saying which of their objects it means."""

from __future__ import annotations

import re

from label_config import LabelConfig, labels_in_prompt

_SEPARATORS = re.compile(r"[,;&+.?!]|\b(?:and|or|plus)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# Words of a request that do not narrow down what is asked for.
_REQUEST = frozenset(
    [
        *("a", "all", "an", "any", "both", "can", "could", "detect", "each", "every", "find", "for"),
        *("get", "give", "have", "here", "highlight", "i", "image", "in", "is", "it", "its", "label"),
        *("locate", "look", "mark", "mask", "me", "my", "need", "of", "outline", "own", "photo", "picture"),
        *(
            "please",
            "segment",
            "select",
            "separately",
            "show",
            "some",
            "that",
            "the",
            "their",
            "there",
            "these",
            "this",
        ),
        *("those", "us", "want", "where", "which", "are", "you"),
    ]
)


def plain_labels(prompt: str, config: LabelConfig) -> set[str]:
    """Return the labels that a prompt asks for without a word that narrows them down.

    Args:
        prompt: The prompt as typed.
        config: The project's labeling configuration.

    Returns:
        For "please find the cups and the red book" the label of cups, not that of books.
    """
    plain: set[str] = set()
    for part in _SEPARATORS.split(prompt):
        words = [word for word in _WORD.findall(part) if word.lower() not in _REQUEST]
        asked = labels_in_prompt(" ".join(words), config)
        named = {word.lower() for name in asked.values() for word in _WORD.findall(name)}
        if words and {word.lower() for word in words} <= named:
            plain |= asked.keys()
    return plain
