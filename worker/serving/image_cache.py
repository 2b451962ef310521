"""Pictures kept for a moment, so that a further prompt on one neither downloads nor decodes it again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from PIL import Image

from pixellm_model import Picture

# What an address shows may change, and so may the right to see it: what is older is fetched anew.
MAX_AGE_S = 300.0


class Images(Protocol):
    """Where pictures come from; `worker.images.fetch.ImageFetcher` is one."""

    def load(self, reference: str, task: str | None = None) -> Image.Image:
        """The image, mode RGB. Raises ImageError."""


class Pictures(Protocol):
    """Where an engine gets its pictures from."""

    def load(self, reference: str, task: str | None = None) -> Picture:
        """The picture, ready for the model. Raises ImageError."""


class CachedPictures:
    """The images of `source` asked for last, as `prepare` left them, within `max_bytes`. Safe to use from
    several threads.

    All of a process's pictures are fetched with the same token, so that the reference names a picture, and
    with it the task, whose right to a cloud file Label Studio checks.
    """

    def __init__(self, source: Images, prepare: Callable[[Image.Image], Picture], max_bytes: int) -> None:
        self._source = source
        self._prepare = prepare
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[float, Picture]] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, reference: str, task: str | None = None) -> Picture:
        """The picture behind `reference`, at most MAX_AGE_S old. Raises ImageError."""
        # The digest, because a data: URL is as long as its file.
        key = hashlib.blake2b(f"{task} {reference}".encode(), digest_size=20).hexdigest()
        if (known := self._get(key)) is not None:
            return known
        picture = self._prepare(self._source.load(reference, task))
        self._put(key, picture)
        return picture

    def _get(self, key: str) -> Picture | None:
        with self._lock:
            self._drop_old()
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def _put(self, key: str, picture: Picture) -> None:
        if picture.nbytes > self._max_bytes:
            return
        with self._lock:
            self._kept[key] = time.monotonic(), picture
            self._kept.move_to_end(key)
            while sum(kept.nbytes for _, kept in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)

    def _drop_old(self) -> None:
        oldest = time.monotonic() - MAX_AGE_S
        for key in [key for key, (fetched, _) in self._kept.items() if fetched < oldest]:
            del self._kept[key]
