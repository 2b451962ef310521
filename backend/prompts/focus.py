"""Which masks a prompt such as "tighter" is about: those that were pointed at, changed or answered last.

Label Studio sends no selection with a prompt. Masks come with the draft, which is saved five seconds after a
change; masks that wait to be accepted are not in it. What was shown last is therefore remembered here.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.label_studio.brush_rle import Mask
from backend.prompts.pointing import DraftRegion, draft_regions, regions_in
from backend.prompts.regions import ResultItem
from backend.prompts.request import Task
from backend.prompts.tasks import JOB_ID
from label_config import LabelConfig

MAX_REMEMBERED = 64  # images
# Requests do not say who sends them: later on, what waited is gone, or another annotator is at work.
MAX_AGE_S = 600.0


@dataclass(frozen=True)
class _Shown:
    """What was shown last on an image.

    Attributes:
        items: The results of the answer, with their masks as Label Studio's RLE.
        pointed: Whether a region was pointed at; False after an answer to words.
        drafts: The masks of these regions in the draft at that time, as results.
        at: When, by the monotonic clock.
    """

    items: Sequence[ResultItem]
    pointed: bool
    drafts: Mapping[str, ResultItem]
    at: float


@dataclass(frozen=True)
class Meant:
    """The masks that a prompt is about.

    Attributes:
        regions: The masks as the annotator sees them; empty if there are none.
        pointed: Whether a single region was pointed at, and words that add something add to it.
        waiting: The ids of those that wait to be accepted: what the draft has of them, if anything, is older.
        drafts: All masks in the draft, by id; what is there cannot be withdrawn.
    """

    regions: tuple[DraftRegion, ...]
    pointed: bool
    waiting: frozenset[str]
    drafts: Mapping[str, Mask]


class Focus:
    """Remembers for each image what was shown last."""

    def __init__(self) -> None:
        self._shown: OrderedDict[tuple[int, int], _Shown] = OrderedDict()

    def remember(self, task: Task, config: LabelConfig, items: Sequence[ResultItem], pointed: bool) -> None:
        """Keep what an annotator is shown now.

        Args:
            task: The task, with the draft before the answer.
            config: The labeling configuration for the image.
            items: The results of the answer.
            pointed: Whether it answers points or a box.
        """
        ids = {item.get("id") for item in items}
        drafts = {
            str(item["id"]): item
            for draft in task.drafts
            for item in draft.get("result") or []
            if isinstance(item, dict)
            and item.get("id") in ids
            and isinstance(item.get("value"), dict)
            and not item["value"].keys().isdisjoint(("rle", "imageDataURL", "touches"))
        }
        key = task.id, config.item_index or 0
        self._shown[key] = _Shown(list(items), pointed, drafts, time.monotonic())
        self._shown.move_to_end(key)
        while len(self._shown) > MAX_REMEMBERED:
            self._shown.popitem(last=False)

    def end_pointing(self, task: Task, config: LabelConfig) -> None:
        """Note that words came after the last region that was pointed at: nothing more is joined to it.

        Args:
            task: The task.
            config: The labeling configuration for the image.
        """
        key = task.id, config.item_index or 0
        if shown := self._shown.get(key):
            self._shown[key] = replace(shown, pointed=False)

    def meant(self, task: Task, config: LabelConfig) -> Meant:
        """Find the masks that a prompt is about.

        Args:
            task: The task with its drafts.
            config: The labeling configuration for the image.

        Returns:
            The regions that were shown last, unless they are gone from the draft; else the masks in the draft
            that answer the newest prompt.
        """
        in_draft = {region.id: region for region in draft_regions(task, config)}
        drafts = {name: region.mask for name, region in in_draft.items()}
        shown = self._shown.get((task.id, config.item_index or 0))
        if shown is not None and time.monotonic() < shown.at + MAX_AGE_S:
            before = {region.id: region for region in regions_in(list(shown.drafts.values()), config)}
            newest = list(regions_in(shown.items, config))
            is_new = [region.id for region in newest if region.id not in before]
            # Of an answer that was accepted in part, the rest was rejected; what has left the draft, deleted.
            gone = set(is_new) if any(name in in_draft for name in is_new) else set()
            gone = (gone | before.keys()) - in_draft.keys()
            newest = [region for region in newest if region.id not in gone]
            seen = [_as_seen(region, in_draft.get(region.id), before.get(region.id)) for region in newest]
            if seen:
                waiting = {
                    region.id
                    for region in seen
                    if region.id not in drafts or not _same(region.mask, drafts[region.id])
                }
                return Meant(tuple(seen), shown.pointed, frozenset(waiting), drafts)
        of_newest_prompt: list[DraftRegion] = []
        for region in in_draft.values():
            if job := _job_of(region):
                of_newest_prompt = [each for each in of_newest_prompt if _job_of(each) == job]
                of_newest_prompt.append(region)
        return Meant(tuple(of_newest_prompt), False, frozenset(), drafts)


def _as_seen(shown: DraftRegion, draft: DraftRegion | None, before: DraftRegion | None) -> DraftRegion:
    """A region as the annotator sees it.

    Args:
        shown: As it was shown last.
        draft: As it is in the draft; None if it is not there.
        before: As it was in the draft when it was shown; None if it was not there.
    """
    if draft is None:
        return shown
    waits = before is not None and _same(draft.mask, before.mask) and not _same(shown.mask, draft.mask)
    return replace(draft, mask=shown.mask) if waits else draft


def _same(first: Mask, second: Mask) -> bool:
    return bool(np.array_equal(first, second))


def _job_of(region: DraftRegion) -> str | None:
    meta = region.item.get("meta")
    origin = meta.get("pixellm") if isinstance(meta, dict) else None
    job = origin.get("job") if isinstance(origin, dict) else None
    return job if isinstance(job, str) and JOB_ID.fullmatch(job) else None
