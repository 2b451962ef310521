"""What is computed once per image, and the bounded cache that keeps it.

Nothing here depends on what is asked: the maps that the pixel decoder reads, and the language model's keys
and values for the system text and the image. A follow-up prompt costs only its own tokens.
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
    """One image as the model knows it.

    `sources` are what the pixel decoder starts from per scale, (dim, g, g) and (dim, 2g, 2g); `keys` and
    `values` per layer, (heads, P, d), for the P tokens up to the image's end; `visible` (P,) bool is false
    for image tokens that hold nothing but padding.
    """

    sources: tuple[torch.Tensor, ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    visible: torch.Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.sources, *self.keys, *self.values, self.visible))


def image_key(image: ProcessedImage, version: str) -> str:
    """Names what a `Prefix` depends on: the resized pixels, where padding begins, and the weights.

    Photos that are equal after resizing are equal to the model; their own sizes matter to no cached state.
    """
    digest = hashlib.blake2b(image.pixel_values.contiguous().numpy().data, digest_size=20)
    digest.update(f"{image.resized}:{version}".encode())
    return digest.hexdigest()


class PrefixCache:
    """Least recently used prefixes within `max_bytes`. Safe to use from several threads.

    A prefix larger than the bound is not kept. `hits` counts what was found.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.nbytes = self.hits = 0
        self._entries: OrderedDict[str, Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Prefix | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self.hits += 1
                self._entries.move_to_end(key)
            return found

    def put(self, key: str, prefix: Prefix) -> None:
        with self._lock:
            former = self._entries.pop(key, None)
            self.nbytes -= former.nbytes if former else 0
            if prefix.nbytes > self.max_bytes:
                return
            while self._entries and self.nbytes + prefix.nbytes > self.max_bytes:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes
            self._entries[key] = prefix
            self.nbytes += prefix.nbytes

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.nbytes = 0
