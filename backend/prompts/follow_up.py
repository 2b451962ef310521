"""Whether a prompt refers back to the one before ("only the left one", "also the lid") or stands alone.

Most prompts stand alone: an annotator asks for the apple, accepts it, and asks for the book. Earlier turns
would mislead the model there, so they only go along with a prompt that needs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The prompt continues the earlier one, but what it adds is named in full: "also the lid", "the lid too".
_ADDING_START = re.compile(
    r"^(?:(?:and|also|plus|add|now|then|next|now also|and also|what about|how about)\b[\s,]*)+", re.IGNORECASE
)
_ADDING_END = re.compile(r"[\s,]*\b(?:too|as well|also|instead)\s*[.!?]*$", re.IGNORECASE)
# The meaning depends on the earlier answer.
_SELECTING = re.compile(
    r"""^\s*(?:
        (?:no|not|nope|only|just)\b (?!\s+(?:entry|parking|smoking)\b) |
        without\b | except\b | all\ but\b | leave\ out\b | remove\b | drop\b | exclude\b | keep\b |
        (?:make\ it\s+)?(?:tighter|looser|smaller|larger|bigger|wider|narrower|more|less)\b[\s.!]*$ |
        split\b | merge\b | join\b | the\ (?:whole|entire)\ (?:thing|one|object)\b |
        the\ (?:rest|others?)\b | (?:everything|anything|something)\ else\b | again\b | same\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
# "the left one", "those on the table", "segment them": the noun is in the earlier prompt.
_PRONOUN = re.compile(
    r"""(?:^|\s)(?:
        (?:the|that|this|which|another)\ (?:[\w-]+\ ){0,3}?ones?(?!-) |
        (?:of|segment|mark|select|find|show|mask|outline)\ (?:it|them|these|those|that|this) |
        (?:it|them|these|those)\s*[.!?]*$
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class FollowUp:
    """How a prompt depends on the earlier ones.

    Attributes:
        refers_back: Whether its meaning depends on the earlier turns.
        standalone: The same prompt without the words that refer back, for a model that reads each prompt on
            its own; None if it then would name nothing.
    """

    refers_back: bool
    standalone: str | None


def follow_up(prompt: str) -> FollowUp:
    """Classify how a prompt depends on the earlier ones.

    Args:
        prompt: The prompt as typed.

    Returns:
        `refers_back` False and the prompt itself for one that stands alone.

    >>> follow_up("the book")
    FollowUp(refers_back=False, standalone='the book')
    >>> follow_up("also the lid")
    FollowUp(refers_back=True, standalone='the lid')
    >>> follow_up("only the left one")
    FollowUp(refers_back=True, standalone=None)
    """
    if _SELECTING.search(prompt) or _PRONOUN.search(prompt):
        return FollowUp(True, None)
    named = _ADDING_END.sub("", _ADDING_START.sub("", prompt)).strip()
    if named == prompt.strip():
        return FollowUp(False, named)
    if not named or _SELECTING.search(named):
        return FollowUp(True, None)
    return FollowUp(True, named)
