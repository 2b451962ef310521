"""Makes the changes that words ask of masks: the same region with another mask, and a sentence about it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from backend.label_studio.brush_rle import Mask
from backend.label_studio.contours import connected_parts
from backend.prompts.editing import Edit, read_edit
from backend.prompts.focus import Meant
from backend.prompts.model_client import ModelClient
from backend.prompts.pointing import DraftRegion, draft_regions
from backend.prompts.refining import name_of
from backend.prompts.regions import ResultItem, region_items
from backend.prompts.request import Task
from backend.prompts.shapes import ITEM_ID_CHARS, region_values
from backend.prompts.tasks import segment_job
from label_config import LabelConfig
from worker.jobs.contract import Adjustment, SegmentJob, SegmentResult
from worker.jobs.masks import from_rle, to_rle

MAX_PARTS = 50
MIN_PART_SHARE = 0.01  # of the largest part; smaller ones stay with it
# What a mask must change by, as a share of the region, for the change to count; below it is a border's width.
MIN_CHANGE = 0.01
# A mask that covers a region so far is of the whole object, not of a part that could be taken away.
SAME_IOU = 0.8

NOTHING_TO_CHANGE = "There is no mask to change; ask for something or point at it first."


@dataclass(frozen=True)
class Edited:
    """What came of an edit.

    Attributes:
        items: The results to show: changed regions under their own ids, and new ones.
        sentence: What the annotator reads.
        masks: The new masks of changed regions, by id.
        version: The model version that was asked; None if none was.
        withdraws: Whether masks that wait and are not among the items are no longer proposed.
    """

    items: list[ResultItem]
    sentence: str
    masks: dict[str, Mask] = field(default_factory=dict)
    version: str | None = None
    withdraws: bool = False

    def with_waiting(self, meant: Meant) -> Edited:
        """Return it with the other masks that wait: the editor drops what an answer does not repeat."""
        if self.withdraws:
            return self
        ids = {item["id"] for item in self.items}
        others = [region for region in meant.regions if region.id in meant.waiting - ids]
        return replace(self, items=[*(i for each in others for i in _items(each, each.mask)), *self.items])


class RegionEditor:
    """Applies edits to the masks they are about."""

    def __init__(self, model: ModelClient, wait_s: float) -> None:
        self._model = model
        self._wait_s = wait_s

    async def apply(
        self, edit: Edit, meant: Meant, task: Task, config: LabelConfig, project: str | None
    ) -> Edited | None:
        """Apply an edit.

        Args:
            edit: What is asked.
            meant: The masks it is about, at least one.
            task: The task.
            config: The project's labeling configuration for the image.
            project: The project as Label Studio sends it.

        Returns:
            The change, or why nothing is changed; None if the prompt turns out to ask for something else.

        Raises:
            BadTask: The task or the prompt cannot be used.
            NotReady: The model's answer is not there yet, or its job has failed.
            QueueUnavailable: Redis cannot be used.
        """
        phrases = [name_of(region) for region in meant.regions]
        if chooses(edit, meant):
            return await asyncio.to_thread(_choose, edit, meant)
        ask = _Question(self._model, self._wait_s, task, config, project)
        match edit.kind:
            case "split":
                return await asyncio.to_thread(_split, meant.regions)
            case "remove":
                if shown := [region for region in meant.regions if _fits(edit.noun, name_of(region))]:
                    return Edited([], f"{_how_to_delete(shown, meant)} Nothing was changed.")
                edited = await ask.changed_by_noun(edit.noun, meant.regions, remove=True)
                in_draft = await asyncio.to_thread(draft_regions, task, config)
                named = [region for region in in_draft if _fits(edit.noun, name_of(region))]
                if named and not edited.items:
                    edited = replace(edited, sentence=f"{edited.sentence} {_how_to_delete(named, meant)}")
                return edited
            case "add":
                return await ask.changed_by_noun(edit.noun, meant.regions, remove=False)
            case "whole":
                if edit.noun and not meant.pointed and not any(_fits(edit.noun, each) for each in phrases):
                    return None
                return await ask.whole(edit.noun, meant.regions)
            case kind:
                assert kind != "choose"
                return await ask.adjusted(kind, meant.regions)


def chooses(edit: Edit, meant: Meant) -> bool:
    """Return whether an edit keeps some of the masks as they are and drops the others."""
    if edit.kind == "remove" and len(meant.regions) > 1:
        return any(_fits(edit.noun, name_of(region)) for region in meant.regions)
    return edit.kind == "choose"


def with_note_on_new(prompt: str, result: SegmentResult) -> SegmentResult:
    """Return the answer to a prompt; one that adds something ("also the lid") says that it is a new mask."""
    edit = read_edit(prompt)
    if edit is None or edit.kind != "add" or not result.targets:
        return result
    note = "The new mask waits" if len(result.targets) == 1 else "The new masks wait"
    return result.model_copy(update={"warnings": (*result.warnings, f"{note} to be accepted.")})


@dataclass(frozen=True)
class _Question:
    """Asks the model about one image."""

    model: ModelClient
    wait_s: float
    task: Task
    config: LabelConfig
    project: str | None

    async def adjusted(self, kind: Adjustment, regions: Sequence[DraftRegion]) -> Edited:
        """The masks, tighter or looser, or grown to whole objects."""
        results = [await self._ask_to_adjust(kind, region) for region in regions]
        masks = [from_rle(result.targets[0].mask) for result in results]
        done = {"tighter": "tighter", "looser": "looser", "whole": "larger"}[kind]
        version = results[0].model_version
        changed = [
            (region, mask)
            for region, mask in zip(regions, masks, strict=True)
            if mask.any() and not np.array_equal(mask, region.mask)
        ]
        if not changed:
            return Edited(
                [], f"{_listed(regions)} cannot become {done}; nothing was changed.", version=version
            )
        names = _listed([region for region, _ in changed])
        verb = "is" if len(changed) == 1 else "are"
        return _edited(changed, f"{names} {verb} {done} now; say it again for more.", version)

    async def whole(self, noun: str, regions: Sequence[DraftRegion]) -> Edited:
        """The masks grown to the whole objects: to the model's mask of a noun, else to what belongs together.

        Without a noun the second is tried first: it is right more often than a guess at the object's name.
        """
        changed: Changes = []
        version = None
        for region in regions:
            for by_name in (True, False) if noun else (False, True):
                if by_name:
                    result = await self._ask(noun or name_of(region))
                    whole = _overlapping_most(result, region.mask)
                else:
                    result = await self._ask_to_adjust("whole", region)
                    whole = from_rle(result.targets[0].mask)
                version = result.model_version
                if whole is not None and _adds(whole, region.mask):
                    changed.append((region, region.mask | whole))
                    break
        if not changed:
            sentence = f"The model finds no more of {_listed(regions)}; nothing was changed."
            return Edited([], sentence, version=version)
        grown = "was grown to the whole object" if len(changed) == 1 else "were grown to whole objects"
        names = _listed([region for region, _ in changed])
        return _edited(changed, f"{names} {grown}; point at what does not belong.", version)

    async def changed_by_noun(self, noun: str, regions: Sequence[DraftRegion], remove: bool) -> Edited:
        """The masks without what a noun names, or with it."""
        # A draft may hold masks of another size: those of an image that was replaced since.
        regions = [region for region in regions if region.mask.shape == regions[0].mask.shape]
        result = await self._ask(noun)
        found = [from_rle(target.mask) for target in result.targets]
        found = [mask for mask in found if mask.any() and mask.shape == regions[0].mask.shape]
        notes = " ".join(result.warnings)
        if not found:
            said = notes if result.unknown else f'The model finds no "{noun}" in this image.'
            return Edited([], f"{said} Nothing was changed.", version=result.model_version)
        part = np.logical_or.reduce(found)
        changed, sentence = _without(noun, part, regions) if remove else _with(noun, part, regions)
        sentence = " ".join(filter(None, [sentence, notes]))
        return _edited(changed, sentence, result.model_version)

    async def _ask(self, noun: str) -> SegmentResult:
        return await self.model.ask(self._job(f"the {noun}"), self.wait_s)

    async def _ask_to_adjust(self, kind: Adjustment, region: DraftRegion) -> SegmentResult:
        mask = await asyncio.to_thread(to_rle, region.mask)
        job = self._job(name_of(region)).model_copy(update={"mask": mask, "adjust": kind})
        return await self.model.ask(job, self.wait_s)

    def _job(self, prompt: str) -> SegmentJob:
        return segment_job(self.task, prompt, self.config, self.project, "interactive")


Changes = list[tuple[DraftRegion, Mask]]


def _without(noun: str, part: Mask, regions: Sequence[DraftRegion]) -> tuple[Changes, str]:
    changed: Changes = []
    for region in regions:
        shared = _area(part & region.mask)
        if shared / max(1, _area(part | region.mask)) >= SAME_IOU or shared >= 0.95 * _area(region.mask):
            whole = f'The model takes all of "{name_of(region)}" for "{noun}"; nothing was changed.'
            return [], f"{whole} Point at what does not belong to it instead."
        if shared >= MIN_CHANGE * _area(region.mask):
            changed.append((region, region.mask & ~part))
    if not changed:
        return [], f'The "{noun}" does not overlap {_listed(regions)}; nothing was changed.'
    return changed, f'Without the "{noun}": {_listed([region for region, _ in changed])}.'


def _with(noun: str, part: Mask, regions: Sequence[DraftRegion]) -> tuple[Changes, str]:
    region = regions[-1]
    if not _adds(part, region.mask):
        return [], f'"{name_of(region)}" has the "{noun}" already; nothing was changed.'
    return [
        (region, region.mask | part)
    ], f'The "{noun}" now belongs to "{name_of(region)}"; the changed mask waits to be accepted.'


def _how_to_delete(regions: Sequence[DraftRegion], meant: Meant) -> str:
    them = "it" if len(regions) == 1 else "them"
    if not any(region.id in meant.drafts for region in regions):
        return f"{_listed(regions)} {'waits' if them == 'it' else 'wait'}: reject {them} with the cross."
    return f"To delete {_listed(regions)}, select {them} and press Backspace."


def _split(regions: Sequence[DraftRegion]) -> Edited:
    """Each connected part as a region; the largest keeps the id."""
    items: list[ResultItem] = []
    masks: dict[str, Mask] = {}
    count = 0
    for region in regions:
        parts = connected_parts(region.mask, MIN_PART_SHARE, MAX_PARTS)
        if len(parts) < 2:
            continue
        count += len(parts)
        masks[region.id] = parts[0]
        items += _items(region, parts[0])
        for part in parts[1:]:
            # Of the part, not of its number: parts of an earlier split keep their own ids.
            content = region.id.encode() + np.packbits(part).tobytes()
            digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            items += _items(replace(region, item=region.item | {"id": digest[:ITEM_ID_CHARS]}), part)
    if not items:
        return Edited([], f"{_listed(regions)} is in one piece; there is nothing to split.")
    return Edited(items, f"Split into {count} masks, one for each connected part.", masks)


def _choose(edit: Edit, meant: Meant) -> Edited | None:
    """Some of the masks; the others are no longer proposed."""
    fitting = [region for region in meant.regions if _fits(edit.noun, name_of(region)) or not edit.noun]
    if not fitting:
        return None
    if edit.kind == "remove":
        fitting = [region for region in meant.regions if region not in fitting]
        if not fitting:
            return Edited([], "Nothing would be left; reject the masks, or delete them with Backspace.")
    elif edit.place is not None:
        if len(fitting) < 2:
            return Edited([], f"There is only {_listed(fitting)} to choose from; nothing was changed.")
        best = max(fitting, key=lambda region: _rank(region.mask, edit, fitting))
        fitting = [region for region in meant.regions if (region is best) != edit.excluded]
    waiting = [region for region in fitting if region.id in meant.waiting]
    others = [region for region in meant.regions if region not in fitting]
    if not others:
        return Edited([], f"There is only {_listed(fitting)}; nothing was changed.")
    if accepted := [region for region in others if region.id in meant.drafts]:
        them = "it" if len(accepted) == 1 else "them"
        sentence = f"{_listed(accepted)} cannot be withdrawn in words; select {them} and press Backspace."
    else:
        sentence = (
            f"Only {_listed(fitting)} now. "
            "If you have accepted others already, select them and press Backspace."
        )
    items = [item for region in waiting for item in _items(_of_a_choice(region), region.mask)]
    return Edited(items, sentence, {region.id: region.mask for region in waiting}, withdraws=True)


def _of_a_choice(region: DraftRegion) -> DraftRegion:
    """The region, no longer as one of the answer's targets: that the others are gone is no denial of them."""
    meta = dict(region.item.get("meta") or {})
    origin = dict(meta.get("pixellm") or {})
    if origin:
        origin.pop("prompt", None)
        digest = hashlib.sha256(f"{origin.get('job')}:chosen".encode()).hexdigest()
        meta["pixellm"] = origin | {"job": f"seg-{digest[:32]}"}
    return replace(region, item=region.item | {"meta": meta})


def _rank(mask: Mask, edit: Edit, among: Sequence[DraftRegion]) -> float:
    """How well a mask is the one that is meant; the largest is it."""
    rows, columns = np.nonzero(mask)
    match edit.place:
        case "left":
            return -float(columns.mean())
        case "right":
            return float(columns.mean())
        case "top":
            return -float(rows.mean())
        case "bottom":
            return float(rows.mean())
        case "middle":
            centres = sorted(float(np.nonzero(region.mask)[1].mean()) for region in among)
            return -abs(float(columns.mean()) - centres[len(centres) // 2])
        case "smallest":
            return -float(len(rows))
        case _:
            return float(len(rows))


def _overlapping_most(result: SegmentResult, mask: Mask) -> Mask | None:
    """The target that holds most of a mask, if it holds more than half of it."""
    found = [each for target in result.targets if (each := from_rle(target.mask)).shape == mask.shape]
    best = max(found, key=lambda each: _area(each & mask), default=None)
    return best if best is not None and 2 * _area(best & mask) > _area(mask) else None


def _adds(part: Mask, mask: Mask) -> bool:
    return _area(part & ~mask) >= max(1, MIN_CHANGE * _area(mask))


def _area(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _edited(changes: Changes, sentence: str, version: str | None) -> Edited:
    items = [item for region, mask in changes for item in _items(region, mask)]
    return Edited(items, sentence, {region.id: mask for region, mask in changes}, version)


def _items(region: DraftRegion, mask: Mask) -> Iterable[ResultItem]:
    (value,) = region_values(mask, region.control.kind)
    return region_items(region.control, region.labels, {**region.item, "value": value})


def _fits(noun: str, phrase: str) -> bool:
    """Whether a noun, or one in a list, names what a phrase does ("cups" and "red cup")."""
    words = _words(phrase)
    return any(
        named[-1:] == words[-1:] and set(named) <= set(words)
        for name in re.split(r",|\b(?:and|or)\b", noun)
        if (named := _words(name))
    )


def _words(phrase: str) -> list[str]:
    """The words before a place ("cup on the left"), in lower case, the last one without a plural's s."""
    words = re.split(r"\s+(?:on|at|in|of|with|to|near|left|right|above|below)\b", phrase.lower())[0].split()
    words = [word for word in words if word not in ("the", "a", "an")]
    return [*words[:-1], words[-1].removesuffix("s")] if words else []


def _listed(regions: Sequence[DraftRegion]) -> str:
    names: dict[str, int] = {}
    for region in regions:
        names[name_of(region)] = names.get(name_of(region), 0) + 1
    parts = [f'"{name}"' if count == 1 else f'{count} x "{name}"' for name, count in names.items()]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
