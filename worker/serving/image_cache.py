"""A cache of prepared images: another prompt about an image neither downloads nor decodes it again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from PIL import Image

from pixellm_model import Picture

# The image behind an address may change, and so may the right to see it: older entries are fetched again.
MAX_AGE_S = 300.0


class ImageSource(Protocol):
    """Loads images; `worker.images.fetch.ImageFetcher` does."""

    def load(self, reference: str, task: str | None = None) -> Image.Image:
        """Load an image, mode RGB. Raises ImageError."""


class PreparedImageSource(Protocol):
    """Loads images as a model's `prepare` leaves them; `ImageCache` does."""

    def load(self, reference: str, task: str | None = None) -> Picture:
        """Load and prepare an image. Raises ImageError."""


class ImageCache:
    """The images used last, as `prepare` left them, within a bound on memory. Safe for several threads.

    All images of a process are fetched with the same token. So the reference identifies an image, together
    with the task, because Label Studio checks the right to a cloud file by the task.
    """

    def __init__(
        self, source: ImageSource, prepare: Callable[[Image.Image], Picture], max_bytes: int
    ) -> None:
        """Set up an empty cache.

        Args:
            source: Where images come from.
            prepare: A model's `prepare`.
            max_bytes: The bound on memory; an image that exceeds it alone is not cached.
        """
        self._source = source
        self._prepare = prepare
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, tuple[float, Picture]] = OrderedDict()  # (time of fetch, image)
        self._lock = threading.Lock()

    def load(self, reference: str, task: str | None = None) -> Picture:
        """Load an image, from the cache when it was fetched less than MAX_AGE_S ago.

        Args:
            reference: The image as the task holds it.
            task: The number of its Label Studio task, if any.

        Returns:
            The prepared image.

        Raises:
            ImageError: The image cannot be fetched or decoded.
        """
        # A hash, because a data: URL is as long as its file.
        key = hashlib.blake2b(f"{task} {reference}".encode(), digest_size=20).hexdigest()
        if (cached := self._get(key)) is not None:
            return cached
        picture = self._prepare(self._source.load(reference, task))
        self._put(key, picture)
        return picture

    def _get(self, key: str) -> Picture | None:
        with self._lock:
            self._drop_expired()
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][1]

    def _put(self, key: str, picture: Picture) -> None:
        if picture.nbytes > self._max_bytes:
            return
        with self._lock:
            self._entries[key] = time.monotonic(), picture
            self._entries.move_to_end(key)
            while sum(entry.nbytes for _, entry in self._entries.values()) > self._max_bytes:
                self._entries.popitem(last=False)

    def _drop_expired(self) -> None:
        earliest = time.monotonic() - MAX_AGE_S
        for key in [key for key, (fetched_at, _) in self._entries.items() if fetched_at < earliest]:
            del self._entries[key]
