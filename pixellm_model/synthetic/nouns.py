"""The vocabulary of rendered scenes: names of things, and how the names relate."""

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Noun:
    """One kind of thing.

    Attributes:
        name: The name.
        plural: Its plural.
        category: What it is a kind of, such as "fruit".
        synonyms: Other words for it.
        attributes: What it is or does, such as "eat" for food. An attribute that ends in "?" is debatable: no
            question about it is asked where the thing is seen.
        parent: A wider name, such as "bird" for an owl.
        kin: Names that people may use for it, or that are often part of its picture.
    """

    name: str
    plural: str
    category: str
    synonyms: tuple[str, ...] = ()
    attributes: frozenset[str] = frozenset()
    parent: str | None = None
    kin: frozenset[str] = frozenset()


class Nouns:
    """All nouns by name, read from a JSON list of objects with the fields of `Noun`.

    Attributes:
        by_name: The nouns.

    Raises:
        ValueError: A name occurs twice or a parent is missing.
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
        """A vocabulary of these nouns; no name may occur twice and no parent may be missing."""
        vocabulary = cls.__new__(cls)
        vocabulary.by_name = {noun.name: noun for noun in nouns}
        return vocabulary

    @property
    def backdrop(self) -> frozenset[str]:
        """Names with the attribute "backdrop": often part of a background, so never called absent from it."""
        return frozenset(name for name, noun in self.by_name.items() if "backdrop" in noun.attributes)

    def __getitem__(self, name: str) -> Noun:
        return self.by_name[name]

    def covers(self, wide: str, narrow: str) -> bool:
        """Whether a thing named `narrow` may also be named `wide`; true for equal names."""
        name: str | None = narrow
        while name is not None and name != wide:
            name = self.by_name[name].parent
        return name is not None

    def absent(self, name: str, seen: Iterable[str], backdrop: Container[str]) -> bool:
        """Whether `name` may be asked for as absent where `seen` are visible and `backdrop` may be."""
        return name not in backdrop and not any(self.related(name, other) for other in seen)

    def related(self, name: str, other: str) -> bool:
        """Whether it is debatable that `name` is absent where `other` is visible."""
        if self.covers(name, other) or self.covers(other, name):
            return True
        return other in self.by_name[name].kin or name in self.by_name[other].kin
