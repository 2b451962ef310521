"""Generates questions about the named things of an image, in the ways people ask, with their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pixellm_model.samples import Mask, Pixels, Question
from pixellm_model.synthetic.followups import with_follow_ups
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.templates import (
    COLOURED,
    COUNTED,
    EVERYTHING,
    GROUPS,
    NAMED,
    NUMBERS,
    PLACES,
    PLURAL,
    RELATED,
    SIZES,
    answer,
    listed,
    varied,
    wordings,
)
from pixellm_model.synthetic.things import COLOURS, RELATIONS, Thing, extreme_by_area, outermost

__all__ = ["NAMED", "Questioner", "Thing", "answer", "listed", "wordings"]

MAX_TARGETS = 6  # per question
MAX_TRIES = 6  # per question that is wanted


class Questioner:
    """Generates questions about the things of one image.

    The methods named after a kind of question return None where that kind does not fit the image.

    Args:
        nouns: The vocabulary.
        askable: Names that may be asked for although absent. Each should be as frequent as it is in images,
            so that a name alone does not tell whether it is present.
        things: The things in the image.
        rng: Source of all random choices.
        complete: Whether `things` is everything to see; only then are there questions about everything and
            about groups.
        backdrop: Names that the background may show.
        counted: Whether `things` has all instances of the names in it; only then are there questions about
            number, place and size. The same as `complete` by default.
        image: (H, W, 3) uint8 RGB, for questions about colours.
    """

    def __init__(
        self,
        nouns: Nouns,
        askable: Sequence[str],
        things: Sequence[Thing],
        rng: np.random.Generator,
        complete: bool = True,
        backdrop: frozenset[str] = frozenset(),
        counted: bool | None = None,
        image: Pixels | None = None,
    ) -> None:
        self.nouns = nouns
        self.askable = askable
        self.things = sorted(things, key=lambda thing: thing.centre[1])
        self.rng = rng
        self.complete = complete
        self.counted = complete if counted is None else counted
        self.backdrop = backdrop
        self.image = image
        self.names = list(dict.fromkeys(thing.name for thing in self.things))

    def ask(self, count: int, level: int = 1) -> tuple[Question, ...]:
        """Generate questions of random kinds, all different.

        Args:
            count: How many; fewer are returned if the image does not yield as many.
            level: 1 for names, several or absent ones, all of a kind, places, sizes and groups; 2 also for
                numbers, colours and relations; 3 also for follow-up questions.

        Returns:
            The questions.
        """
        kinds = [kind for kind in KINDS if self._supports(kind, level)]
        weights = np.array([kind.weight for kind in kinds])
        weights /= weights.sum()
        chosen: dict[tuple[object, str], Question] = {}
        for _ in range(MAX_TRIES * count):
            if len(chosen) == count:
                break
            question = kinds[self.rng.choice(len(kinds), p=weights)].ask(self)
            if question is not None and level >= FOLLOW_UP_LEVEL:
                question = with_follow_ups(self, question)
            if question is not None:
                chosen.setdefault((question.history, question.text), question)
        return tuple(chosen.values())

    def _supports(self, kind: Kind, level: int) -> bool:
        return (
            level >= kind.level
            and (self.counted or not kind.counted)
            and (self.complete or not kind.complete)
            and (self.image is not None or not kind.image)
        )

    def single_name(self) -> Question | None:
        """A thing by its name, a synonym or a wider name; one target for each thing of that name."""
        if not self.names:
            return None
        words, found = self._refer_to(self.pick(self.names))
        return self._from_template(found, [words])

    def several(self) -> Question | None:
        """Two to four names, answered in the order of the question."""
        if len(self.names) < 2:
            return None
        return self._ask_for(self._sample(self.names, int(self.rng.integers(2, 5))), 0)

    def mixed(self) -> Question | None:
        """One or two names that are present and one or two that are absent."""
        if not self.names:
            return None
        return self._ask_for(
            self._sample(self.names, int(self.rng.integers(1, 3))), 1 + int(self.rng.random() < 0.2)
        )

    def absent(self) -> Question | None:
        """One or two names that are absent."""
        return self._ask_for([], 1 if self.rng.random() < 0.85 else 2)

    def plural(self) -> Question | None:
        """All things of one name, preferably of one that occurs several times."""
        if not self.names:
            return None
        counts = [sum(thing.name == name for thing in self.things) for name in self.names]
        repeated = [name for name, count in zip(self.names, counts, strict=True) if count > 1]
        name = self.pick(repeated) if repeated and self.rng.random() < 0.8 else self.pick(self.names)
        parent = self.nouns[name].parent
        noun = self.nouns[parent if parent is not None and self.rng.random() < 0.3 else name]
        found = [(noun.name, thing.mask) for thing in self.called(noun.name)]
        text = self.pick(PLURAL).format(x=noun.plural, one=noun.name)
        return self.question(text, found)

    def place(self) -> Question | None:
        """The thing at one side, among all or among those of one name, if that is clear."""
        where, most, axis, greatest = PLACES[int(self.rng.integers(len(PLACES)))]
        name, things = self._comparable()
        if name is None:
            return None
        first = outermost(things, axis, greatest)
        if first is None:
            return None
        phrase = f"{name} {where}" if self.rng.random() < 0.6 else f"{most} {name}"
        return self._from_template([(phrase, first.mask)], [phrase])

    def size(self) -> Question | None:
        """The biggest or smallest thing, among all or among those of one name, if that is clear."""
        word, greatest = SIZES[int(self.rng.integers(len(SIZES)))]
        name, things = self._comparable()
        if name is None:
            return None
        first = extreme_by_area(things, greatest)
        if first is None:
            return None
        phrase = f"{word} {name}"
        return self._from_template([(phrase, first.mask)], [phrase])

    def group(self) -> Question | None:
        """All things of a category or with an attribute, by their own names; none may be debatable."""
        groups = [group for group in GROUPS if self._members(group[0])]
        if self.rng.random() < 0.2 or not groups:
            groups = list(GROUPS)
        rule, missing, wordings = groups[int(self.rng.integers(len(groups)))]
        found = self._members(rule)
        if found is None or len(found) > MAX_TARGETS or (not found and self.backdrop):
            return None
        words = self.pick(wordings)
        text = words if self.rng.random() < 0.3 else self.pick(NAMED[2:15]).format(x=words)
        text = text.replace("the all", "all").replace("the some", "some").replace("the what", "what")
        text = text.replace("the where", "where")
        return self.question(text, found, [] if found else [missing])

    def everything(self) -> Question | None:
        """All things, by their names."""
        if not 1 <= len(self.things) <= MAX_TARGETS:
            return None
        return self.question(self.pick(EVERYTHING), [(thing.name, thing.mask) for thing in self.things])

    def number(self) -> Question | None:
        """All things of one name that occurs several times, asked for by their number."""
        several = [name for name in self.names if 1 < len(self.called(name)) <= MAX_TARGETS]
        if not several:
            return None
        noun = self.nouns[self.pick(several)]
        found = [(noun.name, thing.mask) for thing in self.called(noun.name)]
        return self.question(self.pick(COUNTED).format(n=NUMBERS[len(found)], x=noun.plural), found)

    def colour(self) -> Question | None:
        """The things of a colour, of one name or of any, if it is clear of each whether it has the colour.

        Things of any name are asked for only if the background cannot show other things of that colour.
        """
        if self.image is None or not self.names:
            return None
        image = self.image
        shown = [c for c in COLOURS if any(thing.shows(c, image) for thing in self.things)]
        colour = self.pick(shown if shown and self.rng.random() < 0.8 else list(COLOURS))
        alone = self.complete and not self.backdrop
        name = None if alone and self.rng.random() < 0.3 else self.pick(self.names)
        things = self.things if name is None else self.called(name)
        verdicts = [thing.shows(colour, image) for thing in things]
        if None in verdicts:
            return None
        chosen = [thing for thing, verdict in zip(things, verdicts, strict=True) if verdict]
        if name is None:
            text = self.pick(COLOURED).format(c=colour)
            missing = [] if chosen else [f"{colour} thing"]
            return self.question(text, [(thing.name, thing.mask) for thing in chosen], missing)
        phrase = f"{colour} {name}"
        return self._from_template(
            [(phrase, thing.mask) for thing in chosen], [phrase], [] if chosen else [phrase]
        )

    def relation(self) -> Question | None:
        """The things of one name that are left of, right of, above or below the only thing of another."""
        anchors = [name for name in self.names if len(self.called(name)) == 1]
        if not anchors or len(self.names) < 2:
            return None
        anchor, name = self.pick(anchors), self.pick(self.names)
        if self.nouns.covers(anchor, name) or self.nouns.covers(name, anchor):
            return None
        things, (other,) = self.called(name), self.called(anchor)
        clear = {}
        for relation in RELATIONS:
            verdicts = [thing.stands(relation, other) for thing in things]
            if None not in verdicts:
                clear[relation] = [t for t, verdict in zip(things, verdicts, strict=True) if verdict]
        true = [relation for relation, chosen in clear.items() if chosen]
        options = true if true and self.rng.random() < 0.8 else list(clear)
        if not options:
            return None
        relation = self.pick(options)
        phrase = f"{name} {relation} the {anchor}"
        wording = f"{name} {self.pick(RELATED[relation])} the {anchor}"
        chosen = clear[relation]
        return self._from_template(
            [(phrase, thing.mask) for thing in chosen], [wording], [] if chosen else [phrase]
        )

    def called(self, name: str) -> list[Thing]:
        """The things that a name covers; a wider name covers narrower ones: an owl is also a bird."""
        return [thing for thing in self.things if self.nouns.covers(name, thing.name)]

    def _members(self, rule: str) -> list[tuple[str, Mask]] | None:
        """The things of a group with their names; None if one is debatable."""
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
        """Things to compare, and a name for them: those of a repeated name, or all as "object" or "thing"."""
        repeated = [name for name in self.names if sum(thing.name == name for thing in self.things) > 1]
        if repeated and self.rng.random() < 0.8:
            name = self.pick(repeated)
            return name, self.called(name)
        if len(self.things) < 2 or not self.complete:
            return None, []
        return self.pick(("object", "thing")), list(self.things)

    def _refer_to(self, name: str) -> tuple[str, list[tuple[str, Mask]]]:
        """Words for `name` (itself, a wider name or a synonym), and the targets that they name."""
        noun = self.nouns[name]
        wide, words, chance = name, name, self.rng.random()
        if noun.parent is not None and chance < 0.15:
            wide = words = noun.parent
        elif noun.synonyms and chance > 0.65:
            words = self.pick(noun.synonyms)
        found = [(words, thing.mask) for thing in self.called(wide)]
        return words, found

    def absent_names(self, count: int) -> list[str]:
        """Up to `count` names that are absent; about half are of the category of something present."""
        categories = {self.nouns[name].category for name in self.names}
        alike = [name for name in self.askable if self.nouns[name].category in categories]
        chosen: list[str] = []
        for _ in range(50):
            if len(chosen) == count:
                break
            name = self.pick(alike if alike and self.rng.random() < 0.5 else self.askable)
            if name not in chosen and self.nouns.absent(name, self.names, self.backdrop):
                chosen.append(name)
        return chosen

    def _ask_for(self, present: Sequence[str], absent: int) -> Question | None:
        """A question for present names and `absent` absent ones, in random order."""
        missing = self.absent_names(absent)
        overlaps = any(self.nouns.covers(a, b) for a in present for b in present if a != b)
        if len(missing) < absent or overlaps:
            return None
        phrases: list[str] = []
        found: list[tuple[str, Mask]] = []
        not_found: list[str] = []
        for name in self._sample([*present, *missing], len(present) + len(missing)):
            if name in missing:
                synonyms = self.nouns[name].synonyms
                words = self.pick(synonyms) if synonyms and self.rng.random() < 0.3 else name
                not_found.append(words)
            else:
                words = name
                if self.nouns[name].synonyms and self.rng.random() < 0.3:
                    words = self.pick(self.nouns[name].synonyms)
                found += [(words, thing.mask) for thing in self.called(name)]
            phrases.append(words)
        return self._from_template(found, phrases, not_found)

    def _from_template(
        self, found: list[tuple[str, Mask]], phrases: Sequence[str], missing: Sequence[str] = ()
    ) -> Question | None:
        joined = listed(phrases)
        if self.rng.random() < 0.25:
            joined = listed([phrases[0], *(f"the {words}" for words in phrases[1:])])
        elif len(phrases) > 1 and self.rng.random() < 0.3:
            joined = ", ".join(phrases)
        text = self.pick(NAMED).format(x=joined)
        return self.question(text, found, missing)

    def question(
        self,
        text: str,
        found: list[tuple[str, Mask]],
        missing: Sequence[str] = (),
        history: tuple[tuple[str, str], ...] = (),
    ) -> Question | None:
        """Make a question with its answer.

        Args:
            text: What is asked; its punctuation, case and ending are varied at random.
            found: The targets, as phrases with masks.
            missing: Phrases that the answer says are absent.
            history: Earlier turns.

        Returns:
            The question; None if it has more than MAX_TARGETS targets.
        """
        if len(found) > MAX_TARGETS:
            return None
        text = varied(text, self.rng)
        masks = tuple(mask for _, mask in found)
        return Question(text, answer(found, missing), masks, tuple(phrase for phrase, _ in found), history)

    def pick(self, options: Sequence[str]) -> str:
        """A random option."""
        return options[int(self.rng.integers(len(options)))]

    def _sample(self, options: Sequence[str], count: int) -> list[str]:
        order = self.rng.permutation(len(options))[:count]
        return [options[int(index)] for index in order]


class Kind(NamedTuple):
    """A kind of question: how to ask it, how often, and what it needs of a `Questioner`."""

    ask: Callable[[Questioner], Question | None]
    weight: float  # relative to the other kinds that are supported
    level: int = 1  # lowest level
    counted: bool = False
    complete: bool = False
    image: bool = False


FOLLOW_UP_LEVEL = 3
KINDS = (
    Kind(Questioner.single_name, 0.35),
    Kind(Questioner.absent, 0.12),
    Kind(Questioner.several, 0.16),
    Kind(Questioner.mixed, 0.08),
    Kind(Questioner.plural, 0.1, counted=True),
    Kind(Questioner.place, 0.09, counted=True),
    Kind(Questioner.size, 0.03, counted=True),
    Kind(Questioner.group, 0.1, complete=True),
    Kind(Questioner.everything, 0.06, complete=True),
    Kind(Questioner.number, 0.05, level=2, counted=True),
    Kind(Questioner.relation, 0.2, level=2, counted=True),
    Kind(Questioner.colour, 0.2, level=2, counted=True, image=True),
)
