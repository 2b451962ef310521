"""What an annotation says beyond its masks: about things that have none, and whether somebody looked at it.

Label Studio does not report rejected suggestions, and it drops those that wait when an annotation is
submitted. So a missing mask alone may only have been forgotten. It was rejected if

- the annotator chose something in the control NOTHING_ELSE, which the ready-made templates have, or
- the annotation began as a copy of a prediction. The prediction's regions were the annotation's own then, and
  one that is missing was deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backend.corrections.annotation import proposal_of
from label_config import NOTHING_ELSE

MIN_LOOK_S = 1.0

Review = Literal["ground_truth", "accepted", "rejected"]


@dataclass(frozen=True)
class Evidence:
    """What is known about the targets without a mask.

    Attributes:
        nothing_else: Whether the annotator said that nothing is missing.
        shown: Job and index of each target that was a region of the annotation from its beginning.
    """

    nothing_else: bool = False
    shown: frozenset[tuple[str, int]] = frozenset()

    def rejects(self, job: str, index: int) -> bool:
        """Return whether a target was rejected, given that it has no mask."""
        return self.nothing_else or (job, index) in self.shown


def read_evidence(annotation: Mapping[str, Any]) -> Evidence:
    """Return what an annotation says about targets without a mask.

    Args:
        annotation: The annotation. Its `prediction` is the prediction that it began as; Label Studio leaves
            it empty where the project names another version.
    """
    chosen = any(
        isinstance(item, dict) and item.get("from_name") == NOTHING_ELSE and item.get("type") == "choices"
        for item in annotation["result"]
    )
    prediction = annotation.get("prediction")
    copied = prediction.get("result") if isinstance(prediction, dict) else None
    sources = [proposal_of(item) for item in copied or [] if isinstance(item, dict)]
    shown = {
        (source["job"], source["target"])
        for source in sources
        if isinstance(source.get("job"), str) and isinstance(source.get("target"), int)
    }
    return Evidence(chosen, frozenset(shown))


def seconds_spent(annotation: Mapping[str, Any]) -> float | None:
    """Return how long the annotator had the annotation open; None if Label Studio does not say."""
    seconds = annotation.get("lead_time")
    return float(seconds) if isinstance(seconds, int | float) and not isinstance(seconds, bool) else None


def is_unseen(annotation: Mapping[str, Any], untouched: bool) -> bool:
    """Return whether an annotation is a copy of a prediction that nobody has looked at.

    Label Studio's "Create annotations from predictions" makes such ones, without a time. The editor always
    gives one, and nobody checks masks in less than MIN_LOOK_S.

    Args:
        annotation: The annotation.
        untouched: Whether all its masks are as they were proposed.
    """
    seconds = seconds_spent(annotation)
    looked_at = seconds is not None and seconds >= MIN_LOOK_S
    return not looked_at and (untouched or annotation.get("parent_prediction") is not None)


def annotator_of(annotation: Mapping[str, Any]) -> str | None:
    """Return the user id of who made an annotation; None if Label Studio does not say."""
    user = annotation.get("completed_by")
    user = user.get("id") if isinstance(user, dict) else user
    return str(user)[:64] if isinstance(user, int | str) else None


def review_of(annotation: Mapping[str, Any]) -> Review | None:
    """Return what a reviewer said about an annotation; None if nobody has reviewed it."""
    match annotation.get("last_action"):
        case "rejected":
            return "rejected"
        case "accepted" | "fixed_and_accepted":
            return "accepted"
    return "ground_truth" if annotation.get("ground_truth") is True else None
