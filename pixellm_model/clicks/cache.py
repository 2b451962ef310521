"""A bounded cache of encoded photos."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class SupportsNbytes(Protocol):
    """An object that knows its size in memory."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        ...


Entry = TypeVar("Entry", bound=SupportsNbytes)


class PhotoCache(Generic[Entry]):
    """A least recently used cache. Not safe to use from several threads; its user locks it.

    Attributes:
        max_bytes: Bound of the entries' size. The latest entry is kept even if it alone is larger.
        nbytes: Their size now.
        hits: Number of successful look-ups.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.nbytes = self.hits = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """Look an entry up; None if it is not in the cache."""
        entry = self._entries.get(key)
        if entry is not None:
            self.hits += 1
            self._entries.move_to_end(key)
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Add or replace an entry, evicting the least recently used ones as needed."""
        previous = self._entries.pop(key, None)
        self.nbytes -= previous.nbytes if previous is not None else 0
        self._entries[key] = entry
        self.nbytes += entry.nbytes
        while len(self._entries) > 1 and self.nbytes > self.max_bytes:
            self.nbytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.nbytes = 0
