"""Questions about the named things of an image, in the many ways people ask, with their answers."""

from collections.abc import Callable, Sequence

import numpy as np

from pixellm_model.samples import Question
from pixellm_model.synthetic.followups import continued
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.templates import (
    COLOURED,
    COUNTED,
    ENDINGS,
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
    wordings,
)
from pixellm_model.synthetic.things import COLOURS, RELATIONS, Thing, biggest, outermost

__all__ = ["NAMED", "Questioner", "Thing", "answer", "listed", "wordings"]

MOST_TARGETS = 6


class Questioner:
    """Asks about the things of one image.

    `askable` are the names that may be asked for although absent, each as likely as it is to be seen, so
    that a name alone does not tell whether it is there. `complete` says that `things` is all there is to
    see: only then are questions asked about everything and groups. `counted` says that at least all things of
    the names in `things` are among them, so that they can be told apart by number, place and size; unless it
    is given, it is as `complete`. `backdrop` are names that the background may show. `image` (H, W, 3) uint8
    is needed for questions about colours.
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
        image: np.ndarray | None = None,
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
        """`count` questions of various kinds, none twice; fewer where the image gives no more.

        Level 1 asks for names, several or absent ones, all of a kind, places, sizes and groups; level 2 also
        for numbers, colours and relations; level 3 also in further turns about the same image.
        """
        kinds = self._kinds(level)
        weights = np.array([weight for weight, _ in kinds])
        asked: dict[tuple[object, str], Question] = {}
        for _ in range(6 * count):
            if len(asked) == count:
                break
            question = kinds[self.rng.choice(len(kinds), p=weights / weights.sum())][1]()
            if question is not None and level > 2:
                question = continued(self, question)
            if question is not None:
                asked.setdefault((question.history, question.text), question)
        return tuple(asked.values())

    def _kinds(self, level: int) -> list[tuple[float, Callable[[], Question | None]]]:
        kinds: list[tuple[float, Callable[[], Question | None]]] = [
            (0.35, self.one),
            (0.12, self.absent),
            (0.16, self.several),
            (0.08, self.mixed),
        ]
        if self.counted:
            kinds += [(0.1, self.plural), (0.09, self.place), (0.03, self.size)]
        if self.complete:
            kinds += [(0.1, self.group), (0.06, self.all)]
        if level > 1 and self.counted:
            kinds += [(0.05, self.number), (0.2, self.relation)]
            if self.image is not None:
                kinds.append((0.2, self.colour))
        return kinds

    def one(self) -> Question | None:
        """A thing by its name, a synonym or a wider name; one target for each thing of that name."""
        if not self.names:
            return None
        asked, found = self._reference(self.pick(self.names))
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
        name = self.pick(repeated) if repeated and self.rng.random() < 0.8 else self.pick(self.names)
        parent = self.nouns[name].parent
        noun = self.nouns[parent if parent is not None and self.rng.random() < 0.3 else name]
        found = [(noun.name, thing.mask) for thing in self.called(noun.name)]
        text = self.pick(PLURAL).format(x=noun.plural, one=noun.name)
        return self.question(text, found)

    def place(self) -> Question | None:
        """The thing at one side, among all or among those of one name; only where that is plain to see."""
        where, most, axis, greatest = PLACES[int(self.rng.integers(len(PLACES)))]
        name, things = self._comparable()
        if name is None:
            return None
        first = outermost(things, axis, greatest)
        if first is None:
            return None
        phrase = f"{name} {where}" if self.rng.random() < 0.6 else f"{most} {name}"
        return self._named([(phrase, first.mask)], [phrase])

    def size(self) -> Question | None:
        """The biggest or smallest thing, where it is by half bigger or smaller than the next."""
        word, greatest = SIZES[int(self.rng.integers(len(SIZES)))]
        name, things = self._comparable()
        if name is None:
            return None
        first = biggest(things, greatest)
        if first is None:
            return None
        phrase = f"{word} {name}"
        return self._named([(phrase, first.mask)], [phrase])

    def group(self) -> Question | None:
        """All things of a category or with an attribute, by their own names; none of them arguable."""
        groups = [group for group in GROUPS if self._members(group[0])]
        if self.rng.random() < 0.2 or not groups:
            groups = list(GROUPS)
        rule, missing, wordings = groups[int(self.rng.integers(len(groups)))]
        found = self._members(rule)
        if found is None or len(found) > MOST_TARGETS or (not found and self.backdrop):
            return None
        words = self.pick(wordings)
        text = words if self.rng.random() < 0.3 else self.pick(NAMED[2:15]).format(x=words)
        text = text.replace("the all", "all").replace("the some", "some").replace("the what", "what")
        text = text.replace("the where", "where")
        return self.question(text, found, [] if found else [missing])

    def all(self) -> Question | None:
        if not 1 <= len(self.things) <= MOST_TARGETS:
            return None
        return self.question(self.pick(EVERYTHING), [(thing.name, thing.mask) for thing in self.things])

    def number(self) -> Question | None:
        """All things of one name, and how many there are."""
        several = [name for name in self.names if 1 < len(self.called(name)) <= MOST_TARGETS]
        if not several:
            return None
        noun = self.nouns[self.pick(several)]
        found = [(noun.name, thing.mask) for thing in self.called(noun.name)]
        return self.question(self.pick(COUNTED).format(n=NUMBERS[len(found)], x=noun.plural), found)

    def colour(self) -> Question | None:
        """The things of a colour, of one name or of any; only where each is plainly of it or plainly not.

        Those of any name only where the background shows nothing that might be of that colour too.
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
        return self._named([(phrase, thing.mask) for thing in chosen], [phrase], [] if chosen else [phrase])

    def relation(self) -> Question | None:
        """The things of a name that stand left of, right of, above or below the only thing of another."""
        anchors = [name for name in self.names if len(self.called(name)) == 1]
        if not anchors or len(self.names) < 2:
            return None
        anchor, name = self.pick(anchors), self.pick(self.names)
        if self.nouns.covers(anchor, name) or self.nouns.covers(name, anchor):
            return None
        things, (other,) = self.called(name), self.called(anchor)
        settled = {}
        for relation in RELATIONS:
            verdicts = [thing.stands(relation, other) for thing in things]
            if None not in verdicts:
                settled[relation] = [t for t, verdict in zip(things, verdicts, strict=True) if verdict]
        true = [relation for relation, chosen in settled.items() if chosen]
        options = true if true and self.rng.random() < 0.8 else list(settled)
        if not options:
            return None
        relation = self.pick(options)
        phrase = f"{name} {relation} the {anchor}"
        asked = f"{name} {self.pick(RELATED[relation])} the {anchor}"
        chosen = settled[relation]
        return self._named([(phrase, thing.mask) for thing in chosen], [asked], [] if chosen else [phrase])

    def called(self, name: str) -> list[Thing]:
        """The things that a name covers; a wider name covers others too: among birds an owl counts."""
        return [thing for thing in self.things if self.nouns.covers(name, thing.name)]

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
            name = self.pick(repeated)
            return name, self.called(name)
        if len(self.things) < 2 or not self.complete:
            return None, []
        return self.pick(("object", "thing")), list(self.things)

    def _reference(self, name: str) -> tuple[str, list[tuple[str, np.ndarray]]]:
        """Words to ask for `name` with, and what they fit."""
        noun = self.nouns[name]
        wide, words, chance = name, name, self.rng.random()
        if noun.parent is not None and chance < 0.15:
            wide = words = noun.parent
        elif noun.synonyms and chance > 0.65:
            words = self.pick(noun.synonyms)
        found = [(words, thing.mask) for thing in self.called(wide)]
        return words, found

    def absent_names(self, count: int) -> list[str]:
        """Names of nothing seen; half of them of the category of something that is seen."""
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

    def _asking(self, present: Sequence[str], absent: int) -> Question | None:
        """A question for the present names and `absent` absent ones, in random order."""
        missing = self.absent_names(absent)
        twice = any(self.nouns.covers(one, other) for one in present for other in present if one != other)
        if len(missing) < absent or twice:
            return None
        asked: list[str] = []
        found: list[tuple[str, np.ndarray]] = []
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
        text = self.pick(NAMED).format(x=joined)
        return self.question(text, found, missing)

    def question(
        self,
        text: str,
        found: list[tuple[str, np.ndarray]],
        missing: Sequence[str] = (),
        history: tuple[tuple[str, str], ...] = (),
    ) -> Question | None:
        """With its answer, the text varied a little; None for more targets than are asked for at a time."""
        if len(found) > MOST_TARGETS:
            return None
        if self.rng.random() < 0.2:
            text = text.rstrip(".")
        if self.rng.random() < 0.2:
            text = text.lower()
        elif self.rng.random() < 0.1:
            text = text[0].upper() + text[1:]
        if self.rng.random() < 0.2:
            text = f"{text if text[-1] in '.?' else text + '.'} {self.pick(ENDINGS)}"
        masks = tuple(mask for _, mask in found)
        return Question(text, answer(found, missing), masks, tuple(phrase for phrase, _ in found), history)

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _sample(self, options: Sequence[str], count: int) -> list[str]:
        order = self.rng.permutation(len(options))[:count]
        return [options[int(index)] for index in order]
