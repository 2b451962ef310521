"""From outcomes to training data: what the model should have answered, where the annotation says it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from backend.corrections.compare import Outcome, ProposedAnswer
from backend.corrections.evidence import Evidence
from backend.corrections.plain_prompts import plain_labels
from label_config import LabelConfig, labels_in_prompt
from worker.jobs.masks import to_rle

TARGET_PLACEHOLDER = "{seg}"  # where an answer names a target; `pixellm_model.samples` reads it
LEFT_OPEN = "{} was neither accepted nor, as far as is known, rejected"
_DENIAL = re.compile(r"\b(?:no|not|none)\b", re.IGNORECASE)


def training_turns(
    outcomes: Sequence[Outcome],
    proposals: Sequence[ProposedAnswer],
    config: LabelConfig,
    evidence: Evidence,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the turns that an annotation teaches.

    There is a turn for each prompt whose answer is known as a whole, with its final targets. For labels that
    a person has drawn or chosen, and for plain labels in other prompts, there is one more, "Segment the
    LABEL.", with all masks of the label.

    Args:
        outcomes: What `compare` returned.
        proposals: The same proposals that `compare` was given.
        config: The project's labeling configuration.
        evidence: What the annotation says about targets without a region.

    Returns:
        JSON as `Correction.turns` stores it, where masks are COCO RLE; and for each prompt or label that
        teaches nothing, a sentence that says why.
    """
    by_job = {proposal.job: proposal for proposal in proposals}
    turns, reasons = [], []
    labels = {outcome.label: None for outcome in outcomes if outcome.kind in ("added", "relabelled")}
    for job in dict.fromkeys(outcome.job for outcome in outcomes if outcome.job is not None):
        of_job = sorted((o for o in outcomes if o.job == job), key=lambda o: o.index or 0)
        proposal = by_job.get(job)
        prompt = proposal.prompt if proposal else of_job[0].prompt
        if not prompt:
            continue
        final = [outcome for outcome in of_job if outcome.region is not None]
        plain = plain_labels(prompt, config)
        has_more = any(o.region is not None and o.job != job and o.label in plain for o in outcomes)
        if objection := _objection(prompt, proposal, of_job, has_more, config, evidence):
            if final:
                reasons.append(f'"{prompt}": {objection}')
            labels |= {outcome.label: None for outcome in final if outcome.label in plain}
            continue
        history = [list(turn) for turn in proposal.history] if proposal else []
        turns.append(_turn(prompt, history, _answer(proposal, of_job, final), final))
    for label in labels:
        if not label:
            continue
        if any(outcome.kind == "open" and outcome.label == label for outcome in outcomes):
            reasons.append(f'"{label}": {LEFT_OPEN.format("a proposed mask")}')
            continue
        name = label.lower()
        of_label = [
            Outcome(o.kind, name, label, region=o.region)
            for o in outcomes
            if o.label == label and o.region is not None
        ]
        turns.append(_turn(f"Segment the {name}.", [], None, of_label))
    return turns, reasons


def _objection(
    prompt: str,
    proposal: ProposedAnswer | None,
    of_job: Sequence[Outcome],
    has_more: bool,
    config: LabelConfig,
    evidence: Evidence,
) -> str | None:
    """Return why the final targets may not be the whole answer to a prompt; None if they are.

    `has_more` says that a label which the prompt asks for in full has masks from elsewhere too.
    """
    missing = [outcome.phrase for outcome in of_job if outcome.kind == "open"]
    if missing:
        return LEFT_OPEN.format(f"a proposed mask ({', '.join(missing)})")
    if proposal is None:
        return "what the model answered is not recorded, for example because it did not know a word"
    asked = labels_in_prompt(prompt, config)
    if has_more:
        return "it asks for all of a label that has further masks"
    if any(outcome.kind == "rejected" and outcome.label not in asked for outcome in of_job):
        return "what was rejected is no label that it names, so that nobody has said that it is absent"
    if any(outcome.kind == "relabelled" and outcome.label not in asked for outcome in of_job):
        return "its mask was given a label that the prompt does not name"
    if evidence.nothing_else:
        return None
    by_hand = any(outcome.kind in ("relabelled", "added") for outcome in of_job)
    denied = _DENIAL.search(proposal.answer) is not None
    answered = {o.label for o in of_job if o.region is not None or o.kind == "rejected"}
    all_found = bool(asked) and asked.keys() <= {o.label for o in of_job if o.region is not None}
    if ((by_hand or denied) and not (by_hand and all_found)) or not asked.keys() <= answered:
        return "nobody has confirmed that the rest of what it asks for is absent"
    return None


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
    relabelled = any(outcome.kind == "relabelled" for outcome in of_job)
    if proposal is None or relabelled:
        return None
    if [outcome.index for outcome in final] != list(range(len(proposal.targets))):
        return None
    answer = proposal.answer
    for number in range(1, len(final) + 1):
        if answer.count(f"[{number}]") != 1:
            return None
        answer = answer.replace(f"[{number}]", TARGET_PLACEHOLDER)
    return answer
