"""A bounded cache of what refinement knows of photos."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What says how much memory it takes."""

    @property
    def nbytes(self) -> int: ...


Entry = TypeVar("Entry", bound=Sized)


class PhotoCache(Generic[Entry]):
    """Least recently used entries within `max_bytes`; the latest is kept however large. Its user locks it."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.nbytes = self.hits = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        found = self._entries.get(key)
        if found is not None:
            self.hits += 1
            self._entries.move_to_end(key)
        return found

    def put(self, key: str, entry: Entry) -> None:
        former = self._entries.pop(key, None)
        self.nbytes -= former.nbytes if former is not None else 0
        self._entries[key] = entry
        self.nbytes += entry.nbytes
        while len(self._entries) > 1 and self.nbytes > self.max_bytes:
            self.nbytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._entries.clear()
        self.nbytes = 0
