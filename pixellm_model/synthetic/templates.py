"""Templates of questions and answers about named things.

Answers are short: "cup is {seg} and spoon is {seg}.", in the order of the question, else from left to right;
"There is no fork in this image." if the thing is absent.
"""

from collections.abc import Sequence

import numpy as np

from pixellm_model.samples import PLACEHOLDER, Mask
from pixellm_model.synthetic.things import COLOURS

NAMED = (
    "{x}",
    "the {x}",
    "Segment the {x}.",
    "segment {x}",
    "Segment the {x} in this image.",
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
# Group questions: the category or attribute, the phrase for the answer if there is none, and ways to ask.
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
# Places: two phrases, the axis (0 down, 1 across) and whether the greatest coordinate is meant.
PLACES = (
    ("on the left", "leftmost", 1, False),
    ("on the right", "rightmost", 1, True),
    ("at the top", "topmost", 0, False),
    ("at the bottom", "bottommost", 0, True),
)
SIZES = (("biggest", True), ("largest", True), ("smallest", False))
COUNTED = ("the {n} {x}", "{n} {x}", "Segment the {n} {x}.", "Find the {n} {x}.", "Mark the {n} {x}.")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
COLOURED = ("all {c} things", "the {c} objects", "Segment all {c} things.", "Find the {c} objects.")
# Wordings of the relations in `things.RELATIONS`.
RELATED = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
# Follow-up questions. TOO keeps the targets of the earlier answer and adds to them.
ONLY = ("only the {x} one", "just the {x} one", "only the one {w}", "I want only the {x} one.")
TOO = ("and the {x} too", "also the {x}", "the {x} too", "and the {x}", "Add the {x}.", "Now also the {x}.")
WITHOUT = ("without the {x}", "not the {x}", "all but the {x}", "Leave out the {x}.", "Remove the {x}.")
INSTEAD = ("now the {x}", "what about the {x}?", "the {x} instead", "And where is the {x}?")


def listed(parts: Sequence[str]) -> str:
    """Join parts as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def varied(text: str, rng: np.random.Generator) -> str:
    """A question with random changes of its final stop, its case and its ending."""
    if rng.random() < 0.2:
        text = text.rstrip(".")
    if rng.random() < 0.2:
        text = text.lower()
    elif rng.random() < 0.1:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.2:
        text = f"{text if text[-1] in '.?' else text + '.'} {ENDINGS[int(rng.integers(len(ENDINGS)))]}"
    return text


def answer(found: Sequence[tuple[str, Mask]], missing: Sequence[str] = ()) -> str:
    """The answer that names each found phrase with a placeholder, then the missing ones.

    >>> mask = np.ones((1, 1), bool)
    >>> answer([("cup", mask), ("spoon", mask)], ["fork"])
    'cup is {seg} and spoon is {seg}. There is no fork in this image.'
    """
    sentences = []
    if found:
        sentences.append(listed([f"{phrase} is {PLACEHOLDER}" for phrase, _ in found]) + ".")
    if missing:
        sentences.append(f"There is {listed([f'no {phrase}' for phrase in missing])} in this image.")
    return " ".join(sentences)


def wordings() -> list[str]:
    """All templates and answer forms; a tokenizer pruned to a vocabulary must keep their words."""
    groups = [text for _, missing, texts in GROUPS for text in (missing, *texts)]
    places = [text for where, most, _, _ in PLACES for text in (where, most)]
    sizes = [word for word, _ in SIZES]
    related = [word for words in RELATED.values() for word in words]
    follow_ups = [*ONLY, *TOO, *WITHOUT, *INSTEAD]
    forms = [answer([("object", np.empty((0, 0), bool))], ["thing", "thing"]), "a, b and c"]
    plain = [*NAMED, *PLURAL, *EVERYTHING, *ENDINGS, *groups, *places, *sizes]
    return [*plain, *COUNTED, *NUMBERS, *COLOURED, *COLOURS, *related, *follow_ups, *forms]
