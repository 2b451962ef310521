"""Words that change masks which are there ("tighter", "without the handle", "split it"), read as edits.

What an edit is about is known from what was done last (`focus.py`); `region_edits.py` makes the change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from backend.prompts.follow_up import follow_up

EditKind = Literal["tighter", "looser", "whole", "split", "remove", "add", "choose"]
Place = Literal["left", "right", "top", "bottom", "middle", "largest", "smallest"]


@dataclass(frozen=True)
class Edit:
    """A change that a prompt asks for.

    Attributes:
        kind: "tighter" or "looser" masks, the "whole" object, "split" into parts, "remove" or "add" what
            `noun` names, or "choose" some of the masks.
        noun: What is removed, added, or chosen among; empty if it is not named.
        place: Which of the masks is chosen.
        excluded: Whether the chosen mask is the one to leave out.
    """

    kind: EditKind
    noun: str = ""
    place: Place | None = None
    excluded: bool = False


_COURTESY = re.compile(
    r"^(?:(?:please|now|ok(?:ay)?|and|but|(?:can|could) you)\b[\s,]*)+|[\s,]*\bplease\b[\s.!?]*$", re.I
)
_IT = r"(?:it|them|this|that|these|those|the (?:masks?|selection|outlines?|one))"
_SLIGHTLY = r"(?:(?:a (?:bit|little)|slightly|much|even|somewhat|still)\s+)*"
_TIGHTER = re.compile(
    rf"(?:make {_IT} |(?:{_IT} (?:is|are) ))?{_SLIGHTLY}"
    r"(?:tighter|smaller|narrower|thinner|closer|less|too (?:big|large|loose|wide))"
    rf"|(?:tighten|shrink)(?: {_IT})?(?: a (?:bit|little))?",
    re.I,
)
_LOOSER = re.compile(
    rf"(?:make {_IT} |(?:{_IT} (?:is|are) ))?{_SLIGHTLY}"
    r"(?:looser|bigger|larger|wider|more|too (?:small|tight|narrow))"
    rf"|(?:loosen|grow|expand|enlarge)(?: {_IT})?(?: a (?:bit|little))?",
    re.I,
)
_WHOLE = re.compile(
    r"(?:(?:segment|mask|select|show|i want|take)\s+)?"
    r"(?:the |its )?(?:whole|entire|complete|full)\s+(?P<noun>.+)"
    rf"|all of (?P<all>{_IT}|the .+)",
    re.I,
)
_SPLIT = re.compile(
    rf"(?:split|separate|divide|break)(?: {_IT})?(?: up| apart)?"
    r"(?: in ?to (?:(?:two|\d+|its|their|single|separate) )?"
    r"(?:parts|pieces|components|objects|masks|regions|instances|two))?",
    re.I,
)
_REMOVE = re.compile(
    r"(?:without|except(?: for)?|excluding|exclude|minus|not|no|all but"
    r"|(?:remove|drop|erase|delete|subtract|leave out|take (?:out|away)|cut (?:out|off|away)))"
    r"\s+(?P<noun>.+)",
    re.I,
)
_NO_REMOVAL = re.compile(r"^no(?:,|\s+(?:entry|parking|smoking))", re.I)
_INCLUDE = re.compile(r"(?:include|including|join|attach)\s+(?P<noun>.+)", re.I)
# A new thing in the place of the one before: "now the book", "the cup instead", "what about the banana?".
_INSTEAD = re.compile(r"^\s*(?:now|then|next|(?:what|how) about)\b|\binstead\b", re.I)
_PLACES: dict[str, Place] = {
    **dict.fromkeys(("left", "leftmost", "left-most", "left-hand", "first"), "left"),
    **dict.fromkeys(("right", "rightmost", "right-most", "right-hand", "last"), "right"),
    **dict.fromkeys(("top", "topmost", "upper", "uppermost", "highest", "above"), "top"),
    **dict.fromkeys(("bottom", "bottommost", "lower", "lowermost", "lowest", "below"), "bottom"),
    **dict.fromkeys(("middle", "centre", "center", "central"), "middle"),
    **dict.fromkeys(("largest", "biggest", "larger", "bigger", "large", "big"), "largest"),
    **dict.fromkeys(("smallest", "smaller", "littlest", "small", "little"), "smallest"),
}
_WORDS = "|".join(sorted(_PLACES, key=len, reverse=True))
_ONES = r"(?:ones?|thing|object|mask)"
_PLACED_BEFORE = re.compile(
    rf"(?:the |that |those )?(?:one )?(?P<place>{_WORDS})(?:\s+(?:{_ONES}|(?P<noun>[\w-]+(?: [\w-]+)?)))?",
    re.I,
)
_PLACED_AFTER = re.compile(
    rf"(?:the |that |those )?(?:{_ONES}|(?P<noun>[\w-]+(?: [\w-]+)?))\s+"
    rf"(?:(?:on|at|in|to|near) the|which is|that is|that's)\s+(?:very |far )?(?P<place>{_WORDS})(?: side)?",
    re.I,
)
_ONLY = re.compile(r"^(?:(?:(?:i (?:only )?want|keep|take|only|just)\b[\s,]*|no,\s*))+", re.I)
_ARTICLE = re.compile(r"^(?:the|a|an|its|this|that|these|those|my)\s+", re.I)


def read_edit(prompt: str) -> Edit | None:
    """Read a prompt as a change of masks.

    Args:
        prompt: The prompt as typed.

    Returns:
        The edit; None for a prompt that asks for something instead of changing what is there.

    >>> read_edit("make it a bit tighter, please")
    Edit(kind='tighter', noun='', place=None, excluded=False)
    >>> read_edit("without the handle")
    Edit(kind='remove', noun='handle', place=None, excluded=False)
    >>> read_edit("only the left one")
    Edit(kind='choose', noun='', place='left', excluded=False)
    >>> read_edit("the cup")
    """
    text = _COURTESY.sub("", _COURTESY.sub("", " ".join(prompt.split()))).strip(" .!?,")
    for kind, pattern in (("tighter", _TIGHTER), ("looser", _LOOSER), ("split", _SPLIT)):
        if pattern.fullmatch(text):
            return Edit(kind)  # type: ignore[arg-type]  # the kinds of the line above
    if match := _WHOLE.fullmatch(text):
        return Edit("whole", _named(match["noun"] or match["all"]))
    if not _NO_REMOVAL.match(text) and (match := _REMOVE.fullmatch(text)):
        chosen = _placed(match["noun"])
        if chosen is not None:
            return Edit("choose", chosen.noun, chosen.place, excluded=True)
        noun = _named(match["noun"])
        return Edit("remove", noun) if noun else None
    if match := _ONLY.match(text):
        rest = text[match.end() :]
        return _placed(rest) or (Edit("choose", _named(rest)) if _named(rest) else None)
    chosen = _placed(text)
    if chosen is not None and not chosen.noun:
        return chosen
    return _addition(prompt)


def needs_masks(prompt: str) -> bool:
    """Return whether a prompt means nothing where no mask is.

    >>> needs_masks("only the left one"), needs_masks("remove the cup"), needs_masks("segment them")
    (True, True, True)
    >>> needs_masks("only the cup"), needs_masks("also the cup"), needs_masks("the cup")
    (False, False, False)
    """
    if (edit := read_edit(prompt)) is not None:
        return edit.kind == "remove" or not edit.noun
    reference = follow_up(prompt)
    return reference.refers_back and reference.standalone is None


def _addition(prompt: str) -> Edit | None:
    """What is to be added: "also the lid", "and the lid too", "include the lid"."""
    if match := _INCLUDE.fullmatch(prompt.strip(" .!?,")):
        return Edit("add", _named(match["noun"]))
    reference = follow_up(prompt)
    if not reference.refers_back or reference.standalone is None or _INSTEAD.search(prompt):
        return None
    noun = _named(reference.standalone.strip(" .!?,"))
    return Edit("add", noun) if noun else None


def _placed(text: str) -> Edit | None:
    """A choice by place or size: "the left one", "the one on the right", "the largest"."""
    for pattern in (_PLACED_BEFORE, _PLACED_AFTER):
        if match := pattern.fullmatch(text.strip()):
            return Edit("choose", _named(match["noun"] or ""), _PLACES[match["place"].lower()])
    return None


def _named(words: str) -> str:
    """A noun without its article; empty for "it", "the thing", "that one"."""
    noun = _ARTICLE.sub("", words.strip(" .!?,"))
    vague = rf"{_IT}|(?:whole |entire )?{_ONES}|(?:left|other|rest|others|same)(?: ones?)?"
    return "" if re.fullmatch(vague, noun, re.I) else noun
