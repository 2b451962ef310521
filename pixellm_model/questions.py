"""Questions about the named things of an image, in the many ways people ask, with their answers.

Answers are short: "cup is {seg} and spoon is {seg}.", things in the order they were asked for, else from
left to right; "There is no fork in this image." where the thing is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .nouns import Nouns
from .samples import PLACEHOLDER, Question

NAMED = (
    "{x}",
    "the {x}",
    "Segment the {x}.",
    "segment {x}",
    "Please segment the {x} in this image.",
    "Can you segment the {x} in this image?",
    "Could you find the {x}?",
    "Where is the {x}?",
    "Where is the {x} in this picture?",
    "Find the {x}.",
    "Show me the {x}.",
    "show the {x}",
    "Mark the {x}.",
    "Highlight the {x} in the photo.",
    "Select the {x}.",
    "Outline the {x}.",
    "Mask the {x}.",
    "I need a mask of the {x}.",
    "I want to label the {x}.",
    "Which pixels belong to the {x}?",
    "What is the {x} in this image?",
    "Is there any {x} here?",
)
PLURAL = (
    "{x}",
    "the {x}",
    "all {x}",
    "all the {x}",
    "every {one}",
    "each {one}",
    "Segment all {x}.",
    "segment all the {x}",
    "Segment every {one}.",
    "Please segment the {x} in this image.",
    "Find all the {x}.",
    "Where are the {x}?",
    "Mark each {one} on its own.",
    "Show me all the {x}, separately.",
    "Are there any {x}?",
)
EVERYTHING = (
    "everything",
    "all objects",
    "Segment everything.",
    "Segment all objects in this image.",
    "Find every object.",
    "Label all the things you see.",
    "What objects are in this image?",
    "What can you see?",
)
ENDINGS = (
    "Please respond with segmentation mask.",
    "Please output segmentation mask.",
    "Provide the segmentation mask.",
    "Output the segmentation mask.",
    "Please show the segmentation mask.",
    "I'd appreciate segmentation masks.",
    "Please highlight the segmentation mask.",
)
# What a group question asks for: a category or an attribute, and the ways to say it. "nothing ..." is how its
# absence is put.
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("category:animal,insect", "animal", ("animals", "all animals", "living creatures")),
    ("category:fruit", "fruit", ("fruits", "fruit", "all the fruit")),
    ("category:vegetable", "vegetable", ("vegetables", "all vegetables")),
    ("category:vehicle", "vehicle", ("vehicles", "all vehicles", "means of transport")),
    ("category:furniture", "furniture", ("furniture", "pieces of furniture")),
    ("category:plant", "plant", ("plants", "all plants")),
    ("category:building", "building", ("buildings", "all buildings")),
    ("category:tool", "tool", ("tools", "all tools")),
    ("category:sport", "sports equipment", ("sports equipment", "things for sport")),
    ("category:clothing", "clothing", ("clothes", "clothing")),
    ("attribute:eat", "food", ("food", "something you can eat", "things to eat", "what I could eat")),
    ("attribute:drink", "drink", ("something you can drink from", "things to drink from")),
    ("attribute:hold", "container", ("something that can hold water", "things that hold water")),
    ("attribute:read", "reading matter", ("something you can read", "things to read")),
    ("attribute:wear", "thing to wear", ("something you can wear", "things to wear")),
    ("attribute:ride", "thing to ride", ("something you can ride", "things people ride")),
    ("attribute:fly", "thing that flies", ("something that can fly", "things that fly")),
    ("attribute:sit", "seat", ("something to sit on", "where I could sit")),
    ("attribute:music", "musical instrument", ("musical instruments", "something that makes music")),
    ("attribute:cut", "thing to cut with", ("something sharp", "something to cut with")),
    ("attribute:time", "clock", ("something that tells the time", "what shows the time")),
    ("attribute:light", "light", ("something that gives light", "light sources")),
    ("attribute:electric", "electric device", ("electric devices", "things that need electricity")),
)
# The phrase for the place, the axis (0 down, 1 across) and whether the greatest coordinate is meant.
PLACES = (
    ("on the left", "leftmost", 1, False),
    ("on the right", "rightmost", 1, True),
    ("at the top", "topmost", 0, False),
    ("at the bottom", "bottommost", 0, True),
)
SIZES = (("biggest", True), ("largest", True), ("smallest", False))
MOST_TARGETS = 6


@dataclass(frozen=True)
class Thing:
    """One thing in an image: its name and its visible mask (H, W) bool."""

    name: str
    mask: np.ndarray

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the mask's centre, as fractions of the image's height and width."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        columns = np.flatnonzero(self.mask.any(axis=0))
        height, width = self.mask.shape
        return float(rows[0] + rows[-1] + 1) / (2 * height), float(columns[0] + columns[-1] + 1) / (2 * width)


def listed(parts: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def answer(found: Sequence[tuple[str, np.ndarray]], missing: Sequence[str] = ()) -> str:
    """The answer that names each found phrase with a placeholder, then what is missing."""
    sentences = []
    if found:
        sentences.append(listed([f"{phrase} is {PLACEHOLDER}" for phrase, _ in found]) + ".")
    if missing:
        sentences.append(f"There is {listed([f'no {phrase}' for phrase in missing])} in this image.")
    return " ".join(sentences)


class Questioner:
    """Asks about the things of one image.

    `askable` are the names that may be asked for although absent, each as likely as it is to be seen, so
    that a name alone does not tell whether it is there. `complete` says that `things` is all there is to
    see: only then are questions asked about everything, groups, places and sizes. `backdrop` are names that
    the background may show.
    """

    def __init__(
        self,
        nouns: Nouns,
        askable: Sequence[str],
        things: Sequence[Thing],
        rng: np.random.Generator,
        complete: bool = True,
        backdrop: frozenset[str] = frozenset(),
    ) -> None:
        self.nouns = nouns
        self.askable = askable
        self.things = sorted(things, key=lambda thing: thing.centre[1])
        self.rng = rng
        self.complete = complete
        self.backdrop = backdrop
        self.names = list(dict.fromkeys(thing.name for thing in self.things))

    def ask(self, count: int) -> tuple[Question, ...]:
        """`count` questions of various kinds, no text twice; fewer where the image gives no more."""
        kinds: list[tuple[float, Callable[[], Question | None]]] = [
            (0.35, self.one),
            (0.12, self.absent),
            (0.16, self.several),
            (0.08, self.mixed),
        ]
        if self.complete:
            kinds += [
                (0.1, self.plural),
                (0.09, self.place),
                (0.03, self.size),
                (0.1, self.group),
                (0.06, self.all),
            ]
        weights = np.array([weight for weight, _ in kinds])
        asked: dict[str, Question] = {}
        for _ in range(6 * count):
            if len(asked) == count:
                break
            question = kinds[self.rng.choice(len(kinds), p=weights / weights.sum())][1]()
            if question is not None:
                asked.setdefault(question.text, question)
        return tuple(asked.values())

    def one(self) -> Question | None:
        """A thing by its name, a synonym or a wider name; one target for each thing of that name."""
        if not self.names:
            return None
        asked, found = self._reference(self._pick(self.names))
        return self._named(found, [asked])

    def several(self) -> Question | None:
        """Two to four names, answered in the order of the question."""
        if len(self.names) < 2:
            return None
        return self._asking(self._sample(self.names, int(self.rng.integers(2, 5))), 0)

    def mixed(self) -> Question | None:
        """Some names that are there and one or two that are not."""
        if not self.names:
            return None
        return self._asking(
            self._sample(self.names, int(self.rng.integers(1, 3))), 1 + int(self.rng.random() < 0.2)
        )

    def absent(self) -> Question | None:
        return self._asking([], 1 if self.rng.random() < 0.85 else 2)

    def plural(self) -> Question | None:
        """All things of one name; preferably one seen several times."""
        if not self.names:
            return None
        counts = [sum(thing.name == name for thing in self.things) for name in self.names]
        repeated = [name for name, count in zip(self.names, counts, strict=True) if count > 1]
        name = self._pick(repeated) if repeated and self.rng.random() < 0.8 else self._pick(self.names)
        parent = self.nouns[name].parent
        noun = self.nouns[parent if parent is not None and self.rng.random() < 0.3 else name]
        found = [(noun.name, thing.mask) for thing in self.things if self.nouns.covers(noun.name, thing.name)]
        text = self._pick(PLURAL).format(x=noun.plural, one=noun.name)
        return self._question(text, found)

    def place(self) -> Question | None:
        """The thing at one side, among all or among those of one name; only where that is plain to see."""
        where, most, axis, greatest = PLACES[int(self.rng.integers(len(PLACES)))]
        name, things = self._comparable()
        if name is None:
            return None
        ranked = sorted(things, key=lambda thing: thing.centre[axis], reverse=greatest)
        if abs(ranked[0].centre[axis] - ranked[1].centre[axis]) < 0.12:
            return None
        phrase = f"{name} {where}" if self.rng.random() < 0.6 else f"{most} {name}"
        return self._named([(phrase, ranked[0].mask)], [phrase])

    def size(self) -> Question | None:
        """The biggest or smallest thing, where it is by half bigger or smaller than the next."""
        word, greatest = SIZES[int(self.rng.integers(len(SIZES)))]
        name, things = self._comparable()
        if name is None:
            return None
        ranked = sorted(things, key=lambda thing: int(thing.mask.sum()), reverse=greatest)
        areas = sorted((int(ranked[0].mask.sum()), int(ranked[1].mask.sum())))
        if areas[1] < 1.5 * areas[0]:
            return None
        phrase = f"{word} {name}"
        return self._named([(phrase, ranked[0].mask)], [phrase])

    def group(self) -> Question | None:
        """All things of a category or with an attribute, by their own names; none of them arguable."""
        groups = [group for group in GROUPS if self._members(group[0])]
        if self.rng.random() < 0.2 or not groups:
            groups = list(GROUPS)
        rule, missing, wordings = groups[int(self.rng.integers(len(groups)))]
        found = self._members(rule)
        if found is None or len(found) > MOST_TARGETS or (not found and self.backdrop):
            return None
        words = self._pick(wordings)
        text = words if self.rng.random() < 0.3 else self._pick(NAMED[2:15]).format(x=words)
        text = text.replace("the all", "all").replace("the some", "some").replace("the what", "what")
        text = text.replace("the where", "where")
        return self._question(text, found, [] if found else [missing])

    def all(self) -> Question | None:
        if not 1 <= len(self.things) <= MOST_TARGETS:
            return None
        return self._question(self._pick(EVERYTHING), [(thing.name, thing.mask) for thing in self.things])

    def _members(self, rule: str) -> list[tuple[str, np.ndarray]] | None:
        """The things of a group; None where one is arguable."""
        kind, _, value = rule.partition(":")
        found = []
        for thing in self.things:
            noun = self.nouns[thing.name]
            if f"{value}?" in noun.attributes:
                return None
            if noun.category in value.split(",") if kind == "category" else value in noun.attributes:
                found.append((thing.name, thing.mask))
        return found

    def _comparable(self) -> tuple[str | None, list[Thing]]:
        """Things to compare and what to call one: those of a repeated name if any, else all as "object"."""
        repeated = [name for name in self.names if sum(thing.name == name for thing in self.things) > 1]
        if repeated and self.rng.random() < 0.8:
            name = self._pick(repeated)
            # A wider name covers others too: among birds an owl counts.
            things = [thing for thing in self.things if self.nouns.covers(name, thing.name)]
            return name, things
        if len(self.things) < 2:
            return None, []
        return self._pick(("object", "thing")), list(self.things)

    def _reference(self, name: str) -> tuple[str, list[tuple[str, np.ndarray]]]:
        """Words to ask for `name` with, and what they fit."""
        noun = self.nouns[name]
        wide, words, chance = name, name, self.rng.random()
        if noun.parent is not None and chance < 0.15:
            wide = words = noun.parent
        elif noun.synonyms and chance > 0.65:
            words = self._pick(noun.synonyms)
        found = [(words, thing.mask) for thing in self.things if self.nouns.covers(wide, thing.name)]
        return words, found

    def _absent_names(self, count: int) -> list[str]:
        """Names of nothing seen; half of them of the category of something that is seen."""
        categories = {self.nouns[name].category for name in self.names}
        alike = [name for name in self.askable if self.nouns[name].category in categories]
        chosen: list[str] = []
        for _ in range(50):
            if len(chosen) == count:
                break
            name = self._pick(alike if alike and self.rng.random() < 0.5 else self.askable)
            if name not in chosen and self.nouns.absent(name, self.names, self.backdrop):
                chosen.append(name)
        return chosen

    def _asking(self, present: Sequence[str], absent: int) -> Question | None:
        """A question for the present names and `absent` absent ones, in random order."""
        missing = self._absent_names(absent)
        twice = any(self.nouns.covers(one, other) for one in present for other in present if one != other)
        if len(missing) < absent or twice:
            return None
        asked: list[str] = []
        found: list[tuple[str, np.ndarray]] = []
        not_found: list[str] = []
        for name in self._sample([*present, *missing], len(present) + len(missing)):
            if name in missing:
                synonyms = self.nouns[name].synonyms
                words = self._pick(synonyms) if synonyms and self.rng.random() < 0.3 else name
                not_found.append(words)
            else:
                words = name
                if self.nouns[name].synonyms and self.rng.random() < 0.3:
                    words = self._pick(self.nouns[name].synonyms)
                found += [(words, thing.mask) for thing in self.things if self.nouns.covers(name, thing.name)]
            asked.append(words)
        return self._named(found, asked, not_found)

    def _named(
        self, found: list[tuple[str, np.ndarray]], asked: Sequence[str], missing: Sequence[str] = ()
    ) -> Question | None:
        joined = listed(asked)
        if self.rng.random() < 0.25:
            joined = listed([asked[0], *(f"the {words}" for words in asked[1:])])
        elif len(asked) > 1 and self.rng.random() < 0.3:
            joined = ", ".join(asked)
        text = self._pick(NAMED).format(x=joined)
        return self._question(text, found, missing)

    def _question(
        self, text: str, found: list[tuple[str, np.ndarray]], missing: Sequence[str] = ()
    ) -> Question | None:
        if len(found) > MOST_TARGETS:
            return None
        if self.rng.random() < 0.2:
            text = text.rstrip(".")
        if self.rng.random() < 0.2:
            text = text.lower()
        elif self.rng.random() < 0.1:
            text = text[0].upper() + text[1:]
        if self.rng.random() < 0.2:
            text = f"{text if text[-1] in '.?' else text + '.'} {self._pick(ENDINGS)}"
        masks = tuple(mask for _, mask in found)
        return Question(text, answer(found, missing), masks, tuple(phrase for phrase, _ in found))

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _sample(self, options: Sequence[str], count: int) -> list[str]:
        order = self.rng.permutation(len(options))[:count]
        return [options[int(index)] for index in order]


def wordings() -> list[str]:
    """Every template and answer form, for a tokenizer that must know their words."""
    groups = [text for _, missing, texts in GROUPS for text in (missing, *texts)]
    places = [text for where, most, _, _ in PLACES for text in (where, most)]
    sizes = [word for word, _ in SIZES]
    forms = [answer([("object", np.empty(0))], ["thing", "thing"]), "a, b and c"]
    return [*NAMED, *PLURAL, *EVERYTHING, *ENDINGS, *groups, *places, *sizes, *forms]
