"""What an annotator did with what was proposed: pure functions from an annotation to outcomes and samples.

A final region is told to be one of our targets by `meta.pixellm`, which Label Studio keeps, else by its id,
which we derive from job and target. Label Studio gives an accepted region whatever label is active; then
`origin` is still "prediction", and the label proposed is the one that was meant. A deliberate relabel makes
it "prediction-changed".
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from backend.corrections.strokes import paint
from backend.label_studio import brush_rle
from backend.prompts.regions import region_id
from label_config import LabelConfig, labels_asked, map_label
from worker.jobs.contract import CocoRLE
from worker.jobs.masks import from_rle, to_rle

SAME_IOU = 0.999  # a mask that went through an editor and was not touched
PLACEHOLDER = "{seg}"  # where an answer names a target; `pixellm_model.samples` reads it
Kind = Literal["accepted", "edited", "relabelled", "redrawn", "rejected", "added"]


class NotUnderstood(ValueError):
    """An annotation that cannot be learned from; the message says why."""


@dataclass(frozen=True)
class Target:
    """One target of a proposal."""

    phrase: str
    mask: np.ndarray
    score: float = 0.0


@dataclass(frozen=True)
class Proposed:
    """What a prompt was answered with. `history` are earlier prompts and answers."""

    job: str
    prompt: str
    answer: str
    targets: tuple[Target, ...]
    history: tuple[tuple[str, str], ...] = ()
    model_version: str = ""


@dataclass(frozen=True)
class Region:
    """One mask of the annotation as submitted. `job`, `index` and `meant` (the label that was proposed) say
    where it came from, if from us."""

    label: str | None
    mask: np.ndarray
    origin: str = "manual"
    job: str | None = None
    index: int | None = None
    prompt: str | None = None
    meant: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one target. `iou` compares the mask proposed with the final one; None where one of them
    is missing or the proposal is not known any more."""

    kind: Kind
    phrase: str
    label: str | None
    prompt: str | None = None
    proposed_label: str | None = None
    iou: float | None = None
    region: Region | None = None
    job: str | None = None
    index: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "phrase": self.phrase,
            "label": self.label,
            "prompt": self.prompt,
            "proposed_label": self.proposed_label,
            "iou": None if self.iou is None else round(self.iou, 4),
        }


def read_regions(result: Sequence[Any], config: LabelConfig) -> list[Region]:
    """The masks of an annotation's result. Raises NotUnderstood for one that cannot be decoded."""
    regions = []
    for item in result:
        if not isinstance(item, dict) or item.get("type") != config.mask.kind:
            continue
        value = item.get("value")
        if not isinstance(value, dict):
            raise NotUnderstood("a region has no value")
        size = item.get("original_height"), item.get("original_width")
        if not all(isinstance(side, int) and 0 < side < 100_000 for side in size):
            raise NotUnderstood("a region does not say how large its image is")
        if item.get("image_rotation"):
            raise NotUnderstood(
                "the image was rotated in the editor, and masks of a rotated image are not read"
            )
        meta = item.get("meta")
        ours = meta.get("pixellm") if isinstance(meta, dict) else None
        ours = ours if isinstance(ours, dict) else {}
        labels = value.get(config.mask.kind)
        label = labels[0] if isinstance(labels, list) and labels and isinstance(labels[0], str) else None
        regions.append(
            Region(
                label=label,
                mask=_mask(value, int(size[0]), int(size[1])),  # type: ignore[arg-type]
                origin=str(item.get("origin", "manual")),
                job=_text(ours.get("job")) or _text(item.get("id")),
                index=ours.get("target") if isinstance(ours.get("target"), int) else None,
                prompt=_text(ours.get("prompt")),
                meant=_text(ours.get("label")),
            )
        )
    if len({region.mask.shape for region in regions}) > 1:
        raise NotUnderstood("its regions are of images of different sizes")
    return regions


def compare(
    regions: Sequence[Region], proposals: Sequence[Proposed], config: LabelConfig, empty: bool = False
) -> list[Outcome]:
    """One outcome for each final region, and one for each proposed target that has none.

    Of a proposal none of whose targets is among the regions nothing is said: the annotator may have looked
    at it and asked otherwise. Unless the annotation is `empty`: then all were rejected. A hand-drawn region
    with the label of a rejected target replaces it, and one with a label that a prompt asked for and did not
    get is what that prompt missed.
    """
    by_job = {proposal.job: proposal for proposal in proposals}
    by_id = {
        region_id(proposal.job, index): (proposal.job, index)
        for proposal in proposals
        for index in range(len(proposal.targets))
    }
    outcomes: list[Outcome] = []
    drawn: list[Region] = []
    used: dict[str, set[int]] = {}
    for region in regions:
        job, index = (
            (region.job, region.index)
            if region.index is not None
            else by_id.get(region.job or "", (None, None))
        )
        if job is None or index is None or region.origin == "manual":
            drawn.append(region)
            continue
        used.setdefault(job, set()).add(index)
        outcomes.append(_kept(region, by_job.get(job), job, index, config))
    for proposal in proposals:
        asked = proposal.job in used
        for index, target in enumerate(proposal.targets):
            if index in used.get(proposal.job, set()) or not target.mask.any():
                continue
            label = map_label(target.phrase, config)
            again = _redrawn(target, label, drawn)
            if again is not None:
                drawn = [region for region in drawn if region is not again]
            elif not (asked or empty):
                continue
            outcomes.append(
                Outcome(
                    kind="rejected" if again is None else "redrawn",
                    phrase=target.phrase,
                    label=label,
                    prompt=proposal.prompt,
                    proposed_label=label,
                    iou=None if again is None else _iou(target.mask, again.mask),
                    region=again,
                    job=proposal.job,
                    index=index,
                )
            )
    return outcomes + _added(drawn, proposals, used, config)


def turns(outcomes: Sequence[Outcome], proposals: Sequence[Proposed]) -> list[dict[str, Any]]:
    """What the model should have answered, as `Correction.turns`: each prompt with its final targets, and for
    masks drawn without one their labels asked for by name, with all masks of that label."""
    by_job = {proposal.job: proposal for proposal in proposals}
    said = []
    for job in dict.fromkeys(outcome.job for outcome in outcomes if outcome.job is not None):
        mine = sorted((o for o in outcomes if o.job == job), key=lambda o: o.index or 0)
        proposal = by_job.get(job)
        prompt = proposal.prompt if proposal else mine[0].prompt
        if not prompt:
            continue
        final = [outcome for outcome in mine if outcome.region is not None]
        answer = _answer(proposal, mine, final)
        history = [list(turn) for turn in proposal.history] if proposal else []
        said.append(_turn(prompt, history, answer, final))
    for label in dict.fromkeys(outcome.label for outcome in outcomes if outcome.kind == "added"):
        if label:
            final = [o for o in outcomes if o.label == label and o.region is not None]
            named = [Outcome(o.kind, label.lower(), label, region=o.region) for o in final]
            said.append(_turn(f"Segment the {label.lower()}.", [], None, named))
    return said


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


def _answer(proposal: Proposed | None, mine: list[Outcome], final: list[Outcome]) -> str | None:
    """The model's own words where they stay true, None for words made of the phrases."""
    if not final:
        absent = " and ".join(dict.fromkeys(outcome.phrase for outcome in mine))
        return f"There is no {absent} in this image."
    if proposal is None or len(final) != len(proposal.targets) or any(o.kind == "relabelled" for o in mine):
        return None
    answer = proposal.answer
    for number in range(1, len(final) + 1):
        if answer.count(f"[{number}]") != 1:
            return None
        answer = answer.replace(f"[{number}]", PLACEHOLDER)
    return answer


def _kept(region: Region, proposal: Proposed | None, job: str, index: int, config: LabelConfig) -> Outcome:
    target = proposal.targets[index] if proposal and 0 <= index < len(proposal.targets) else None
    meant = region.meant or (map_label(target.phrase, config) if target else None)
    iou = _iou(target.mask, region.mask) if target else None
    label = region.label
    if region.origin == "prediction" and meant:
        label = meant
    relabelled = label != meant and label is not None
    phrase = target.phrase if target and not relabelled else (label or "object").lower()
    if relabelled:
        kind: Kind = "relabelled"
    elif iou is None:
        kind = "accepted" if region.origin == "prediction" else "edited"
    else:
        kind = "accepted" if iou >= SAME_IOU else "edited"
    prompt = proposal.prompt if proposal else region.prompt
    return Outcome(kind, phrase, label, prompt, meant, iou, region, job, index)


def _added(
    drawn: Sequence[Region], proposals: Sequence[Proposed], used: dict[str, set[int]], config: LabelConfig
) -> list[Outcome]:
    """What was drawn by hand: for the newest prompt that asked for its label and did not get it, or for none.

    A prompt that got other masks, none of which were taken, is not among them: of those nothing is known.
    """
    missed: dict[str, tuple[Proposed, str]] = {}
    for proposal in proposals:
        got = {map_label(target.phrase, config) for target in proposal.targets if target.mask.any()}
        if proposal.job in used or not got:
            asked = labels_asked(proposal.prompt, config)
            missed |= {label: (proposal, words) for label, words in asked.items() if label not in got}
    outcomes: list[Outcome] = []
    for region in drawn:
        outcome = Outcome("added", (region.label or "object").lower(), region.label, region=region)
        if region.label in missed:
            proposal, words = missed[region.label]
            index = len(proposal.targets) + len(outcomes)
            outcome = replace(outcome, phrase=words, prompt=proposal.prompt, job=proposal.job, index=index)
        outcomes.append(outcome)
    return outcomes


def _redrawn(target: Target, label: str | None, drawn: Sequence[Region]) -> Region | None:
    """The hand-drawn region that stands for a rejected target: of its label, the most alike."""
    alike = [region for region in drawn if label is not None and region.label == label]
    return max(alike, key=lambda region: _iou(target.mask, region.mask), default=None)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return 0.0
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def _mask(value: dict[str, Any], height: int, width: int) -> np.ndarray:
    try:
        if "rle" in value:
            mask = brush_rle.decode(value["rle"], height, width)
        elif isinstance(value.get("imageDataURL"), str):
            mask = _from_png(value["imageDataURL"], height, width)
        elif value.get("touches"):
            mask = np.zeros((height, width), bool)
        else:
            raise ValueError("it holds no mask")
        touches = value.get("touches")
        return paint(mask, touches) if isinstance(touches, list) and touches else mask
    except ValueError as error:
        raise NotUnderstood(f"a mask cannot be read: {error}") from error


def _from_png(url: str, height: int, width: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise ValueError(f"the picture is {image.width} x {image.height}, not {width} x {height}")
            return np.asarray(image.convert("RGBA"))[..., 3] > 127
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture is damaged ({type(error).__name__})") from error


def from_stored(targets: Sequence[dict[str, Any]]) -> tuple[Target, ...]:
    """Targets as the database holds them."""
    return tuple(
        Target(t["phrase"], from_rle(CocoRLE.model_validate(t["mask"])), float(t["score"])) for t in targets
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
