"""Compares an annotation with what was proposed: what became of each target. Pure functions.

A region belongs to a proposed target if its `meta.pixellm` says so, else if it has the id derived from job
and target. Label Studio gives an accepted region whatever label is active in the editor; its `origin` stays
"prediction" then, and the proposed label is taken as meant. After a deliberate relabel, `origin` is
"prediction-changed".

A target shown by polygons has one for each part of its mask. They are compared as one mask. Polygons that
nobody changed stand for the proposed mask, which they follow only roughly.

A target without a mask is rejected only if `Evidence` says so. Otherwise it may only have been forgotten, or
never been shown because of its low score, and its outcome is `open`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from backend.corrections.annotation import Region
from backend.corrections.evidence import Evidence
from backend.corrections.plain_prompts import plain_labels
from backend.label_studio.brush_rle import Mask
from backend.prompts.shapes import region_ids
from label_config import LabelConfig, labels_in_prompt, map_label
from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle

# A mask that an editor has decoded and encoded without an edit may differ in a few pixels.
UNCHANGED_IOU = 0.999
# A mask that overlaps a target less is of another object.
SAME_OBJECT_IOU = 0.1
IOU_DECIMALS = 4
UNNAMED = "object"  # the phrase for a region without a label
NO_EVIDENCE = Evidence()

OutcomeKind = Literal["accepted", "edited", "relabelled", "redrawn", "rejected", "open", "added"]


@dataclass(frozen=True)
class ProposedTarget:
    """One target of a proposal.

    Attributes:
        phrase: What the model calls it.
        mask: Shape (height, width); empty where the model named it but found nothing.
        score: The model's confidence, 0..1.
        hidden: Whether it was not shown, because of its low score.
    """

    phrase: str
    mask: Mask
    score: float = 0.0
    hidden: bool = False


@dataclass(frozen=True)
class ProposedAnswer:
    """What a prompt was answered with.

    Attributes:
        job: The id of the job.
        prompt: The annotator's prompt.
        answer: The model's sentence, with `[1]` for the first target and so on.
        targets: The masks, in the order of the answer.
        history: Earlier prompts and their answers that the model was given, oldest first.
        model_version: The version that answered.
    """

    job: str
    prompt: str
    answer: str
    targets: tuple[ProposedTarget, ...]
    history: tuple[tuple[str, str], ...] = ()
    model_version: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Attributes:
        kind: `accepted` as it was, `edited`, `relabelled`, `redrawn` by hand, `rejected`, `open` if it has no
            mask and nobody knows why, or `added` by hand.
        phrase: What the target is called in training data.
        label: Its final label.
        prompt: The prompt it belongs to; None if there was none.
        proposed_label: The label that was proposed.
        iou: Of proposed and final mask; None if one of them is missing.
        region: The final region; None if rejected or open.
        job: The job that proposed it.
        index: Its place among the job's targets.
    """

    kind: OutcomeKind
    phrase: str
    label: str | None
    prompt: str | None = None
    proposed_label: str | None = None
    iou: float | None = None
    region: Region | None = None
    job: str | None = None
    index: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as it is stored with a correction, without masks and ids."""
        return {
            "kind": self.kind,
            "phrase": self.phrase,
            "label": self.label,
            "prompt": self.prompt,
            "proposed_label": self.proposed_label,
            "iou": None if self.iou is None else round(self.iou, IOU_DECIMALS),
        }


def targets_from_json(targets: Sequence[dict[str, Any]]) -> tuple[ProposedTarget, ...]:
    """Return a proposal's targets from the form in which the database stores them."""
    return tuple(
        ProposedTarget(
            target["phrase"],
            from_rle(CocoRLE.model_validate(target["mask"])),
            float(target["score"]),
            bool(target.get("hidden")),
        )
        for target in targets
    )


def compare(
    regions: Sequence[Region],
    proposals: Sequence[ProposedAnswer],
    config: LabelConfig,
    evidence: Evidence = NO_EVIDENCE,
) -> list[Outcome]:
    """Return one outcome for each final region, and for the proposed targets without a region.

    A region drawn by hand replaces a missing target of the same label that it overlaps.
    If a prompt asked for a label and got no mask of it, a region drawn by hand with this label belongs to
    that prompt.

    A proposal none of whose targets is among the regions has outcomes only if all were rejected, or for
    targets that may be further objects of a label among the regions: the annotator may have looked at it and
    asked differently.

    Args:
        regions: The annotation's masks.
        proposals: What was proposed in the task, oldest first.
        config: The project's labeling configuration.
        evidence: What the annotation says about targets without a region.
    """
    outcomes, drawn = _from_proposals(regions, proposals, config)
    used = {(outcome.job, outcome.index) for outcome in outcomes}
    missing: list[Outcome] = []
    for proposal in proposals:
        for index, target in enumerate(proposal.targets):
            if (proposal.job, index) in used or not target.mask.any():
                continue
            label = map_label(target.phrase, config)
            rejected = evidence.rejects(proposal.job, index)
            replacement = _replacement(target, label, drawn)
            outcome = Outcome(
                kind="rejected" if rejected else "open",
                phrase=target.phrase,
                label=label,
                prompt=proposal.prompt,
                proposed_label=label,
                job=proposal.job,
                index=index,
            )
            if replacement is None:
                missing.append(outcome)
                continue
            drawn = [region for region in drawn if region is not replacement]
            iou = _iou(target.mask, replacement.mask)
            outcomes.append(replace(outcome, kind="redrawn", iou=iou, region=replacement))
    used_jobs = {outcome.job for outcome in outcomes if outcome.job is not None}
    outcomes += _added(drawn, proposals, used_jobs, config)
    return outcomes + _without_region(missing, outcomes, proposals)


def _without_region(
    missing: Sequence[Outcome], final: Sequence[Outcome], proposals: Sequence[ProposedAnswer]
) -> list[Outcome]:
    """Return the outcomes of targets without a region; those that say nothing are left out."""
    labels = {outcome.label for outcome in final if outcome.region is not None}
    used_jobs = {outcome.job for outcome in final}
    outcomes: list[Outcome] = []
    for proposal in proposals:
        of_job = [outcome for outcome in missing if outcome.job == proposal.job]
        covered = [outcome for outcome in of_job if _is_covered(outcome, proposal, final)]
        if proposal.job in used_jobs:
            # What another prompt's mask covers belongs to this prompt's answer too, which lacks it then.
            outcomes += [replace(one, kind="open") if one in covered else one for one in of_job]
        elif not labels or all(outcome.label and outcome.label not in labels for outcome in of_job):
            # There may be regions of the same thing from another prompt: a rejected mask denies only labels
            # that the annotation has not.
            outcomes += of_job if any(outcome.kind == "rejected" for outcome in of_job) else []
        else:
            outcomes += [
                outcome
                for outcome in of_job
                if outcome.kind == "open" and outcome.label in labels and outcome not in covered
            ]
    return outcomes


def _is_covered(missing: Outcome, proposal: ProposedAnswer, final: Sequence[Outcome]) -> bool:
    """Return whether a region that is no answer to the same prompt shows a target's object."""
    assert missing.index is not None
    target = proposal.targets[missing.index]
    return any(
        outcome.label == missing.label
        and outcome.job != missing.job
        and outcome.region is not None
        and _iou(target.mask, outcome.region.mask) >= SAME_OBJECT_IOU
        for outcome in final
    )


def _from_proposals(
    regions: Sequence[Region], proposals: Sequence[ProposedAnswer], config: LabelConfig
) -> tuple[list[Outcome], list[Region]]:
    """Return the outcomes of regions that began as a proposed target, and the regions drawn by hand."""
    by_job = {proposal.job: proposal for proposal in proposals}
    by_region_id = {
        own_id: (proposal.job, index)
        for proposal in proposals
        for index in range(len(proposal.targets))
        for own_id in region_ids(proposal.job, index)
    }
    proposed: dict[tuple[str, int], list[Region]] = {}
    drawn: list[Region] = []
    for region in regions:
        job, index = region.job, region.index
        if job is None:
            job, index = by_region_id.get(region.region_id or "", (None, None))
        if job is None or index is None or region.origin == "manual":
            drawn.append(region)
        else:
            proposed.setdefault((job, index), []).append(region)
    outcomes = [
        _from_proposal(region, by_job.get(job), job, index, config)
        for (job, index), of_target in proposed.items()
        for region in _joined(of_target)
    ]
    return outcomes, drawn


def _joined(regions: Sequence[Region]) -> list[Region]:
    """Join the polygons of one target that have the same label into one region."""
    joined: dict[str | None, list[Region]] = {}
    for region in regions:
        if region.is_polygon:
            untouched = region.origin == "prediction" and region.proposed_label
            joined.setdefault(region.proposed_label if untouched else region.label, []).append(region)
    others = [region for region in regions if not region.is_polygon]
    return others + [_as_one(label, polygons) for label, polygons in joined.items()]


def _as_one(label: str | None, polygons: Sequence[Region]) -> Region:
    mask = np.logical_or.reduce([polygon.mask for polygon in polygons])
    untouched = len(polygons) == polygons[0].parts and all(p.origin == "prediction" for p in polygons)
    origin = "prediction" if untouched else "prediction-changed"
    return replace(polygons[0], label=label, mask=mask, origin=origin)


def _from_proposal(
    region: Region, proposal: ProposedAnswer | None, job: str, index: int, config: LabelConfig
) -> Outcome:
    """Return the outcome of a region that began as a target; `proposal` is None if it is unknown."""
    target = proposal.targets[index] if proposal and 0 <= index < len(proposal.targets) else None
    if target and target.mask.any() and region.is_polygon and region.origin == "prediction":
        region = replace(region, mask=target.mask)
    proposed_label = region.proposed_label or (map_label(target.phrase, config) if target else None)
    iou = _iou(target.mask, region.mask) if target else None
    label = region.label
    if region.origin == "prediction" and proposed_label:
        label = proposed_label
    relabelled = label != proposed_label and label is not None
    phrase = target.phrase if target and not relabelled else (label or UNNAMED).lower()
    if relabelled:
        kind: OutcomeKind = "relabelled"
    elif iou is None:
        kind = "accepted" if region.origin == "prediction" else "edited"
    else:
        kind = "accepted" if iou >= UNCHANGED_IOU else "edited"
    prompt = proposal.prompt if proposal else region.prompt
    return Outcome(kind, phrase, label, prompt, proposed_label, iou, region, job, index)


def _replacement(target: ProposedTarget, label: str | None, drawn: Sequence[Region]) -> Region | None:
    """Return the drawn region of the target's label that overlaps it most; None if none overlaps."""
    ious = [
        (_iou(target.mask, region.mask), number)
        for number, region in enumerate(drawn)
        if label is not None and region.label == label
    ]
    iou, number = max(ious, default=(-1.0, 0))
    return drawn[number] if iou >= SAME_OBJECT_IOU else None


def _added(
    drawn: Sequence[Region], proposals: Sequence[ProposedAnswer], used_jobs: set[str], config: LabelConfig
) -> list[Outcome]:
    """Return the outcomes of regions that were drawn by hand and replace nothing.

    Such a region belongs to the newest prompt that asked for its label and did not get it, else to no prompt.
    A prompt that got other masks, none of which were used, does not count: nothing is known of those.
    """
    missed: dict[str, tuple[ProposedAnswer, str]] = {}
    for proposal in proposals:
        shown = (target for target in proposal.targets if target.mask.any() and not target.hidden)
        found = {map_label(target.phrase, config) for target in shown}
        if proposal.job in used_jobs or not found:
            asked = labels_in_prompt(proposal.prompt, config)
            # "The cup on the left" is not known to mean the cup that was drawn.
            plain = plain_labels(proposal.prompt, config) - found
            missed |= {label: (proposal, words) for label, words in asked.items() if label in plain}
    outcomes: list[Outcome] = []
    for region in drawn:
        outcome = Outcome("added", (region.label or UNNAMED).lower(), region.label, region=region)
        if region.label in missed:
            proposal, words = missed[region.label]
            index = len(proposal.targets) + len(outcomes)
            outcome = replace(outcome, phrase=words, prompt=proposal.prompt, job=proposal.job, index=index)
        outcomes.append(outcome)
    return outcomes


def _iou(first: Mask, second: Mask) -> float:
    if first.shape != second.shape:
        return 0.0
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
