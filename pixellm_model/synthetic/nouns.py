"""The names of things that rendered scenes speak about, and how those names relate."""

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Noun:
    """One kind of thing.

    `attributes` are what it surely is or does ("eat": edible); one that ends in "?" is arguable, so
    questions about that attribute are not asked where the thing is seen. `parent` is a wider name ("bird"
    of an owl), `kin` the names that people might use for it, or that are often part of its picture.
    """

    name: str
    plural: str
    category: str
    synonyms: tuple[str, ...] = ()
    attributes: frozenset[str] = frozenset()
    parent: str | None = None
    kin: frozenset[str] = frozenset()


class Nouns:
    """All nouns by name, from a JSON list of objects with the fields of `Noun`.

    Raises ValueError naming the entry when a name is given twice or a parent is missing.
    """

    def __init__(self, path: Path) -> None:
        nouns: dict[str, Noun] = {}
        for entry in json.loads(path.read_text(encoding="utf-8")):
            noun = Noun(
                name=entry["name"],
                plural=entry["plural"],
                category=entry["category"],
                synonyms=tuple(entry.get("synonyms", ())),
                attributes=frozenset(entry.get("attributes", ())),
                parent=entry.get("parent"),
                kin=frozenset(entry.get("kin", ())),
            )
            if noun.name in nouns:
                raise ValueError(f"{path} names {noun.name!r} twice; keep one entry.")
            nouns[noun.name] = noun
        for noun in nouns.values():
            if noun.parent is not None and noun.parent not in nouns:
                raise ValueError(
                    f"{path} gives {noun.name!r} the parent {noun.parent!r}, which it does not name."
                )

        self.by_name = nouns

    @classmethod
    def of(cls, nouns: Iterable[Noun]) -> Self:
        """Nouns made elsewhere; no name twice, every parent among them."""
        made = cls.__new__(cls)
        made.by_name = {noun.name: noun for noun in nouns}
        return made

    @property
    def backdrop(self) -> frozenset[str]:
        """Names with the attribute "backdrop": often seen behind others, so not asked for as absent there."""
        return frozenset(name for name, noun in self.by_name.items() if "backdrop" in noun.attributes)

    def __getitem__(self, name: str) -> Noun:
        return self.by_name[name]

    def covers(self, wide: str, narrow: str) -> bool:
        """Whether a thing called `narrow` is also a `wide` (itself included)."""
        name: str | None = narrow
        while name is not None and name != wide:
            name = self.by_name[name].parent
        return name is not None

    def absent(self, name: str, seen: Iterable[str], backdrop: Container[str]) -> bool:
        """Whether `name` may be asked for as missing where `seen` are, and `backdrop` may be behind them."""
        return name not in backdrop and not any(self.related(name, other) for other in seen)

    def related(self, one: str, other: str) -> bool:
        """Whether asking for `one` where only `other` is seen would be unfair."""
        if self.covers(one, other) or self.covers(other, one):
            return True
        return other in self.by_name[one].kin or one in self.by_name[other].kin
