"""The prefix of an image, which does not depend on the prompt, and a bounded cache of prefixes.

A prefix holds the maps that the pixel decoder reads, and the language model's keys and values for the system
text and the image. With it, a further prompt costs only its own tokens.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch

from pixellm_model.preprocess import ProcessedImage


@dataclass(frozen=True)
class Prefix:
    """What the model computes of one image, for the P tokens up to the image's end.

    Attributes:
        sources: The pixel decoder's input per scale, (dim, g, g) and (dim, 2g, 2g).
        keys: Per layer, (heads, P, d).
        values: Per layer, (heads, P, d).
        visible: (P,) bool, false for image tokens of padding.
    """

    sources: tuple[torch.Tensor, ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    visible: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return sum(t.nbytes for t in (*self.sources, *self.keys, *self.values, self.visible))


def image_key(image: ProcessedImage, version: str) -> str:
    """The key of an image's prefix: a hash of the resized pixels, their size and the weights' version.

    Photos that are equal after resizing have equal prefixes, whatever their own sizes.
    """
    digest = hashlib.blake2b(image.pixel_values.contiguous().numpy().data, digest_size=20)
    digest.update(f"{image.resized}:{version}".encode())
    return digest.hexdigest()


class PrefixCache:
    """A least recently used cache of prefixes. Safe to use from several threads.

    Attributes:
        max_bytes: Bound of the prefixes' size; a larger prefix is not kept.
        nbytes: Their size now.
        hits: Number of successful look-ups.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.nbytes = self.hits = 0
        self._entries: OrderedDict[str, Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Prefix | None:
        """Look a prefix up; None if it is not in the cache."""
        with self._lock:
            prefix = self._entries.get(key)
            if prefix is not None:
                self.hits += 1
                self._entries.move_to_end(key)
            return prefix

    def put(self, key: str, prefix: Prefix) -> None:
        """Add or replace a prefix, evicting the least recently used ones as needed."""
        with self._lock:
            previous = self._entries.pop(key, None)
            self.nbytes -= previous.nbytes if previous else 0
            if prefix.nbytes > self.max_bytes:
                return
            while self._entries and self.nbytes + prefix.nbytes > self.max_bytes:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes
            self._entries[key] = prefix
            self.nbytes += prefix.nbytes

    def clear(self) -> None:
        """Remove all prefixes."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0
