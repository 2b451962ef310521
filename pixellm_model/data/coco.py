"""COCO instances: questions made from what is marked, the same for an image on every run.

Each category by its name, all its things apart or, where there are many, as one; the outermost of several;
two categories in one sentence; and as many categories that the image does not show.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pixellm_model.data.muse import plain_answer
from pixellm_model.data.records import Asked, EncodedMask, Record, encoded_mask, image_size, inside
from pixellm_model.errors import DataError

MOST_TARGETS = 6
CLEAR = 0.1  # of the image's width: the outermost thing is at least that far from the next

Things = dict[str, list[EncodedMask]]


def read(content: Any, images: Path) -> tuple[list[Record], list[str]]:
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        pictures, annotations = list(content["images"]), list(content["annotations"])
    except (KeyError, TypeError, ValueError):
        raise DataError("COCO instances need images, annotations and categories with ids.") from None
    marks: dict[int, list[dict[str, Any]]] = defaultdict(list)
    records, skipped = [], []
    for number, mark in enumerate(annotations):
        if isinstance(mark, dict) and type(mark.get("image_id")) is int:
            marks[mark["image_id"]].append(mark)
        else:
            skipped.append(f"annotation {number}: it has no image_id")
    for number, picture in enumerate(pictures):
        name = f"image {number}"
        try:
            if not isinstance(picture, dict) or type(picture.get("id")) is not int:
                raise DataError("it has no id")
            name = f"image {picture['id']}"
            path = inside(images, picture.get("file_name"))
            size = image_size(path)
            things = _things(marks[picture["id"]], names, size)
            questions = _questions(things, size, sorted(names.values()), picture["id"])
            if not questions:
                raise DataError("there is nothing to ask about it")
            records.append(Record(name, path, questions))
        except DataError as error:
            skipped.append(f"{name}: {error}")
    return records, skipped


def _things(marks: list[dict[str, Any]], names: dict[int, str], size: tuple[int, int]) -> Things:
    things: Things = {}
    for mark in marks:
        category = mark.get("category_id")
        name = names.get(category) if type(category) is int else None
        if name is None:
            raise DataError(f"annotation {mark.get('id')!r:.20} is of an unknown category")
        things.setdefault(name, []).append(encoded_mask(mark.get("segmentation"), size, name))
    return things


def _questions(things: Things, size: tuple[int, int], categories: list[str], seed: int) -> tuple[Asked, ...]:
    rng = np.random.default_rng(abs(seed))
    asked = [_named([(name, masks)]) for name, masks in things.items() if len(masks) <= MOST_TARGETS]
    few = [(name, masks) for name, masks in things.items() if len(masks) <= MOST_TARGETS // 2]
    if len(few) > 1:
        asked.append(_named([few[i] for i in rng.permutation(len(few))[:2]]))
    for name, masks in things.items():
        if len(masks) > 1 and (outermost := _outermost(name, masks, size, bool(rng.random() < 0.5))):
            asked.append(outermost)
    absent = [name for name in categories if name not in things]
    for i in rng.permutation(len(absent))[: max(1, len(things))]:
        asked.append(Asked(f"Segment the {absent[i]}.", f"There is no {absent[i]} in this image.", (), ()))
    return tuple(asked)


def _named(chosen: list[tuple[str, list[EncodedMask]]]) -> Asked:
    words = " and ".join(f"{'the' if len(masks) == 1 else 'every'} {name}" for name, masks in chosen)
    phrases = tuple(name for name, masks in chosen for _ in masks)
    masks = tuple(mask for _, masks in chosen for mask in masks)
    return Asked(f"Segment {words}.", plain_answer(phrases), masks, phrases)


def _outermost(name: str, masks: list[EncodedMask], size: tuple[int, int], left: bool) -> Asked | None:
    centres = []
    for mask in masks:
        columns = np.flatnonzero(mask.decode(*size).any(0))
        if not len(columns):
            return None
        centres.append((columns[0] + columns[-1]) / (2 * size[1]))
    order = np.argsort(centres if left else -np.array(centres))
    if abs(centres[order[0]] - centres[order[1]]) < CLEAR:
        return None
    phrase = f"{name} on the {'left' if left else 'right'}"
    return Asked(f"Segment the {phrase}.", plain_answer((phrase,)), (masks[order[0]],), (phrase,))
