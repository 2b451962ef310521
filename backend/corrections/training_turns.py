"""From outcomes to training data: what the model should have answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.corrections.compare import Outcome, ProposedAnswer
from worker.jobs.masks import to_rle

TARGET_PLACEHOLDER = "{seg}"  # where an answer names a target; `pixellm_model.samples` reads it


def training_turns(outcomes: Sequence[Outcome], proposals: Sequence[ProposedAnswer]) -> list[dict[str, Any]]:
    """Return the turns that an annotation teaches.

    There is a turn for each prompt, with its final targets. For regions drawn by hand there is one more for
    each label, "Segment the LABEL.", with all masks of the label.

    A prompt whose answer had targets that were not shown has no turn, because one without them would deny
    them. What is known of its other labels is taught like regions drawn by hand.

    Args:
        outcomes: What `compare` returned.
        proposals: The same proposals that `compare` was given.

    Returns:
        JSON as `Correction.turns` stores it; masks are COCO RLE.
    """
    by_job = {proposal.job: proposal for proposal in proposals}
    turns = []
    hidden = {(outcome.job, outcome.label) for outcome in outcomes if outcome.kind == "hidden"}
    jobs_with_hidden = {job for job, _ in hidden}
    for job in dict.fromkeys(outcome.job for outcome in outcomes if outcome.job is not None):
        of_job = sorted((o for o in outcomes if o.job == job), key=lambda o: o.index or 0)
        proposal = by_job.get(job)
        prompt = proposal.prompt if proposal else of_job[0].prompt
        if not prompt or job in jobs_with_hidden:
            continue
        final = [outcome for outcome in of_job if outcome.region is not None]
        history = [list(turn) for turn in proposal.history] if proposal else []
        turns.append(_turn(prompt, history, _answer(proposal, of_job, final), final))
    by_label = [
        outcome
        for outcome in outcomes
        if outcome.kind == "added"
        or (outcome.region and outcome.job in jobs_with_hidden and (outcome.job, outcome.label) not in hidden)
    ]
    for label in dict.fromkeys(outcome.label for outcome in by_label):
        if label:
            name = label.lower()
            of_label = [
                Outcome(o.kind, name, label, region=o.region)
                for o in outcomes
                if o.label == label and o.region is not None
            ]
            turns.append(_turn(f"Segment the {name}.", [], None, of_label))
    return turns


def _turn(prompt: str, history: list[list[str]], answer: str | None, final: list[Outcome]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "history": history,
        "answer": answer,
        "targets": [
            {"phrase": o.phrase, "label": o.label, "mask": to_rle(o.region.mask).model_dump(mode="json")}
            for o in final
            if o.region is not None
        ],
    }


def _answer(proposal: ProposedAnswer | None, of_job: list[Outcome], final: list[Outcome]) -> str | None:
    """Return the model's own answer where it stays true; None if it has to be made from the phrases."""
    if not final:
        absent = " and ".join(dict.fromkeys(outcome.phrase for outcome in of_job))
        return f"There is no {absent} in this image."
    changed = any(outcome.kind in ("relabelled", "added") for outcome in of_job)
    if proposal is None or len(final) != len(proposal.targets) or changed:
        return None
    answer = proposal.answer
    for number in range(1, len(final) + 1):
        if answer.count(f"[{number}]") != 1:
            return None
        answer = answer.replace(f"[{number}]", TARGET_PLACEHOLDER)
    return answer
