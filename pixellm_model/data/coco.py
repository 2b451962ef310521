"""COCO instances, with questions made from the annotations; the same questions on every run.

Of each image: every category with at most MAX_TARGETS instances, two categories in one sentence, the leftmost
or rightmost of several instances, and as many categories that the image does not show.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pixellm_model.data.muse import plain_answer
from pixellm_model.data.records import EncodedMask, EncodedQuestion, Record, encoded_mask, image_size, inside
from pixellm_model.errors import DataError

MAX_TARGETS = 6  # per category and question
MIN_DISTANCE = 0.1  # between the outermost instance and the next, as a share of the image's width

Instances = dict[str, list[EncodedMask]]  # masks by category name


def read(content: Any, images: Path) -> tuple[list[Record], list[str]]:
    """Read COCO instances.

    Args:
        content: The parsed JSON.
        images: Folder of the images.

    Returns:
        The usable records, and what is wrong with the others.

    Raises:
        DataError: The content is not COCO instances.
    """
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        pictures, annotations = list(content["images"]), list(content["annotations"])
    except (KeyError, TypeError, ValueError):
        raise DataError("COCO instances need images, annotations and categories with ids.") from None
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    records, skipped = [], []
    for number, annotation in enumerate(annotations):
        if isinstance(annotation, dict) and type(annotation.get("image_id")) is int:
            by_image[annotation["image_id"]].append(annotation)
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
            instances = _instances(by_image[picture["id"]], names, size)
            questions = _questions(instances, size, sorted(names.values()), picture["id"])
            if not questions:
                raise DataError("there is nothing to ask about it")
            records.append(Record(name, path, questions))
        except DataError as error:
            skipped.append(f"{name}: {error}")
    return records, skipped


def _instances(annotations: list[dict[str, Any]], names: dict[int, str], size: tuple[int, int]) -> Instances:
    instances: Instances = {}
    for annotation in annotations:
        category = annotation.get("category_id")
        name = names.get(category) if type(category) is int else None
        if name is None:
            raise DataError(f"annotation {annotation.get('id')!r:.20} is of an unknown category")
        instances.setdefault(name, []).append(encoded_mask(annotation.get("segmentation"), size, name))
    return instances


def _questions(
    instances: Instances, size: tuple[int, int], categories: list[str], seed: int
) -> tuple[EncodedQuestion, ...]:
    rng = np.random.default_rng(abs(seed))
    questions = [_named([(name, masks)]) for name, masks in instances.items() if len(masks) <= MAX_TARGETS]
    few = [(name, masks) for name, masks in instances.items() if len(masks) <= MAX_TARGETS // 2]
    if len(few) > 1:
        questions.append(_named([few[i] for i in rng.permutation(len(few))[:2]]))
    for name, masks in instances.items():
        if len(masks) > 1 and (outermost := _outermost(name, masks, size, bool(rng.random() < 0.5))):
            questions.append(outermost)
    absent = [name for name in categories if name not in instances]
    for i in rng.permutation(len(absent))[: max(1, len(instances))]:
        questions.append(
            EncodedQuestion(f"Segment the {absent[i]}.", f"There is no {absent[i]} in this image.", (), ())
        )
    return tuple(questions)


def _named(chosen: list[tuple[str, list[EncodedMask]]]) -> EncodedQuestion:
    words = " and ".join(f"{'the' if len(masks) == 1 else 'every'} {name}" for name, masks in chosen)
    phrases = tuple(name for name, masks in chosen for _ in masks)
    masks = tuple(mask for _, masks in chosen for mask in masks)
    return EncodedQuestion(f"Segment {words}.", plain_answer(phrases), masks, phrases)


def _outermost(
    name: str, masks: list[EncodedMask], size: tuple[int, int], left: bool
) -> EncodedQuestion | None:
    centres = []
    for mask in masks:
        columns = np.flatnonzero(mask.decode(*size).any(0))
        if not len(columns):
            return None
        centres.append((columns[0] + columns[-1]) / (2 * size[1]))
    order = np.argsort(centres if left else -np.array(centres))
    if abs(centres[order[0]] - centres[order[1]]) < MIN_DISTANCE:
        return None
    phrase = f"{name} on the {'left' if left else 'right'}"
    return EncodedQuestion(f"Segment the {phrase}.", plain_answer((phrase,)), (masks[order[0]],), (phrase,))
