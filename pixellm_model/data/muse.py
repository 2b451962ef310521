"""MUSE JSON (arXiv 2312.02228), and the data set of corrections, which adds fields to it.

A list of images. Each has `file_name` (or `coco_url`, whose last two parts are taken), `height`, `width`,
`questions` [text], `answers` [[target, ...] per question] and, optional, `text_answers` [text with one
`{seg}` a target, or null]. A target has `category_name`, optional `rephrased_name`, and `segmentation`
(polygons or COCO RLE). A data set of corrections is a folder with `dataset.json` and `images/`; its images
also have `split` ("train" or "held_out"), `history` [[[prompt, answer], ...] per question] and `id`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixellm_model.data.records import EncodedQuestion, Record, encoded_mask, image_size, inside
from pixellm_model.errors import DataError
from pixellm_model.samples import PLACEHOLDER

MAX_TEXT = 4000  # characters
MAX_PHRASE = 200


def read(content: object, split: str | None, images: Path) -> tuple[list[Record], list[str]]:
    """Read MUSE JSON.

    Args:
        content: The parsed JSON.
        split: Only images of this split.
        images: Folder of the images.

    Returns:
        The usable records, and what is wrong with the others.

    Raises:
        DataError: The content is not a list.
    """
    if not isinstance(content, list):
        raise DataError("MUSE JSON is a list of images; this is something else.")
    records, skipped = [], []
    for number, entry in enumerate(content):
        name = f"record {number}"
        try:
            if not isinstance(entry, dict):
                raise DataError("it is not an object")
            if split is not None and entry.get("split") != split:
                continue
            if isinstance(entry.get("id"), str):
                name += f" ({entry['id'][:40]})"
            records.append(_record(entry, name, images))
        except DataError as error:
            skipped.append(f"{name}: {error}")
    return records, skipped


def _record(entry: dict[str, Any], name: str, images: Path) -> Record:
    path = inside(images, _file(entry))
    size = image_size(path)
    if "height" in entry and [entry["height"], entry.get("width")] != list(size):
        raise DataError(
            f"it says {entry.get('width')!r:.20}x{entry['height']!r:.20} pixels, "
            f"the image has {size[1]}x{size[0]}"
        )
    questions, answers = entry.get("questions"), entry.get("answers")
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        raise DataError("it needs as many answers as questions")
    texts = _each(entry, "text_answers", len(questions))
    histories = _each(entry, "history", len(questions))
    encoded = tuple(
        _question(question, targets, text, history, size)
        for question, targets, text, history in zip(questions, answers, texts, histories, strict=True)
    )
    if not encoded:
        raise DataError("it has no question")
    split = entry.get("split")
    return Record(name, path, encoded, split if isinstance(split, str) else None)


def _file(entry: dict[str, Any]) -> object:
    url = entry.get("coco_url")
    if isinstance(url, str) and "file_name" not in entry:
        return "/".join(url.split("/")[-2:])  # train2017/000000000009.jpg
    return entry.get("file_name")


def _each(entry: dict[str, Any], key: str, count: int) -> list[Any]:
    values = entry.get(key)
    if values is None:
        return [None] * count
    if not isinstance(values, list) or len(values) != count:
        raise DataError(f"its {key} are not one a question")
    return values


def _question(
    question: object, targets: object, text: object, history: object, size: tuple[int, int]
) -> EncodedQuestion:
    if not isinstance(question, str) or not question.strip() or len(question) > MAX_TEXT:
        raise DataError(f"the question {question!r:.60} is not a text")
    if not isinstance(targets, list) or not all(isinstance(target, dict) for target in targets):
        raise DataError(f"the answer to {question!r:.60} is not a list of targets")
    phrases = tuple(_phrase(target) for target in targets)
    masks = tuple(
        encoded_mask(target.get("segmentation"), size, phrase)
        for target, phrase in zip(targets, phrases, strict=True)
    )
    if text is None:
        text = plain_answer(phrases)
    elif not isinstance(text, str) or len(text) > MAX_TEXT:
        raise DataError(f"the text answer to {question!r:.60} is not a text")
    if (placeholders := text.count(PLACEHOLDER)) != len(masks):
        raise DataError(
            f"the text answer to {question!r:.60} has {placeholders} {PLACEHOLDER} for {len(masks)} targets"
        )
    return EncodedQuestion(question, text, masks, phrases, _turns(history))


def _phrase(target: dict[str, Any]) -> str:
    name = target.get("rephrased_name") or target.get("category_name")
    if not isinstance(name, str) or not name.strip():
        raise DataError("a target has no category_name")
    return name.strip()[:MAX_PHRASE]


def _turns(history: object) -> tuple[tuple[str, str], ...]:
    if history is None:
        return ()
    if not isinstance(history, list):
        raise DataError("a history is not a list of turns")
    turns = []
    for turn in history:
        match turn:
            case [str(prompt), str(answer)]:
                turns.append((prompt[:MAX_TEXT], answer[:MAX_TEXT]))
            case _:
                raise DataError("a turn of a history is not a prompt and an answer")
    return tuple(turns)


def plain_answer(phrases: tuple[str, ...]) -> str:
    """The answer to a question whose data give none.

    >>> plain_answer(("cup", "book"))
    'cup is {seg} and book is {seg}.'
    """
    named = [f"{phrase} is {PLACEHOLDER}" for phrase in phrases]
    if not named:
        return "There is no such thing in this image."
    return (", ".join(named[:-1]) + " and " if named[1:] else "") + named[-1] + "."
