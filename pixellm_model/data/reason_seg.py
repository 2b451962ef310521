"""Data like ReasonSeg's: a folder of images, each with a JSON file of the same name.

The file has `text` [question, ...], `is_sentence` (whether they are questions rather than phrases) and
`shapes` [{`label`: "target" or "ignore", `points` [[x, y], ...]}]. Shapes to ignore are cut out of the
target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixellm_model.data.json_file import load_json
from pixellm_model.data.records import EncodedMask, EncodedQuestion, Record, image_size, polygons
from pixellm_model.errors import DataError
from pixellm_model.samples import PLACEHOLDER

SUFFIXES = (".jpg", ".jpeg", ".png")


def read(folder: Path, images: Path | None) -> tuple[list[Record], list[str]]:
    """Read a folder of JSON files, or a single one.

    Args:
        folder: The folder or file.
        images: Folder of the images; by default the JSON files' own.

    Returns:
        The usable records, and what is wrong with the others.
    """
    records, skipped = [], []
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else [folder]:
        try:
            path = _image(images or file.parent, file.stem)
            image_size(path)
            records.append(Record(file.name, path, _questions(load_json(file))))
        except DataError as error:
            skipped.append(f"{file.name}: {error}")
    return records, skipped


def _image(folder: Path, stem: str) -> Path:
    for suffix in SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise DataError(f"there is no image {stem}{SUFFIXES[0]} in {folder}")


def _questions(entry: Any) -> tuple[EncodedQuestion, ...]:
    if not isinstance(entry, dict) or not isinstance(entry.get("shapes"), list):
        raise DataError("it has no shapes")
    texts = entry.get("text")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError("its text is not a list of questions")
    target, ignored = _outlines(entry["shapes"], "target"), _outlines(entry["shapes"], "ignore")
    if not target:
        raise DataError("no shape is labelled target")
    mask = EncodedMask(target, ignored or None)
    return tuple(
        EncodedQuestion(
            text if entry.get("is_sentence", True) else f"What is {text} in this image?",
            f"It is {PLACEHOLDER}.",
            (mask,),
            (text.strip()[:200],),
        )
        for text in texts
    )


def _outlines(shapes: list[Any], label: str) -> list[list[float]]:
    flat = []
    for shape in shapes:
        if isinstance(shape, dict) and shape.get("label") == label:
            points = shape.get("points")
            try:
                # `points` may be anything in the file, also None: that raises a TypeError.
                flat.append([x for point in points for x in (point[0], point[1])])  # type: ignore[union-attr]
            except (TypeError, IndexError, KeyError):
                raise DataError(f"the points of a shape labelled {label} are not pairs") from None
    return polygons(flat, label) if flat else []
