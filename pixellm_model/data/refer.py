"""RefCOCO, RefCOCO+ and RefCOCOg in refer format: `refs(...).p`, a pickle, and COCO's `instances.json`.

The pickle holds lists, dictionaries, numbers and texts. Nothing else is unpickled, so a file cannot run code.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from pixellm_model.data.json_file import load_json
from pixellm_model.data.records import EncodedQuestion, Record, encoded_mask, image_size, inside
from pixellm_model.errors import DataError
from pixellm_model.samples import PLACEHOLDER


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read(path: Path, split: str | None, images: Path | None) -> tuple[list[Record], list[str]]:
    """Read a refs file; each expression about an image becomes a question.

    Args:
        path: The refs file or its folder.
        split: Only refs of this split.
        images: Folder of the images; `images/` next to the refs file by default.

    Returns:
        The usable records, one per image, and what is wrong with refs that were left out.

    Raises:
        DataError: There is more than one refs file, or it or `instances.json` cannot be read.
    """
    files = sorted(path.glob("refs*.p")) if path.is_dir() else [path]
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path} holds several refs files ({names}); name one of them.")
    refs = _unpickled(files[0])
    instances = load_json(files[0].parent / "instances.json")
    try:
        pictures = {entry["id"]: entry for entry in instances["images"]}
        annotations = {entry["id"]: entry for entry in instances["annotations"]}
    except (KeyError, TypeError):
        raise DataError(f"{files[0].parent / 'instances.json'} is not COCO instances.") from None
    folder = images or files[0].parent / "images"
    by_image: dict[int, list[EncodedQuestion]] = {}
    skipped = []
    for number, ref in enumerate(refs):
        name = f"ref {ref.get('ref_id', number)!r:.20}" if isinstance(ref, dict) else f"ref {number}"
        try:
            if not isinstance(ref, dict):
                raise DataError("it is not an object")
            if split is not None and ref.get("split") != split:
                continue
            picture = pictures.get(ref.get("image_id"))
            annotation = annotations.get(ref.get("ann_id"))
            if picture is None or annotation is None:
                raise DataError("its image or annotation is not among the instances")
            size = image_size(inside(folder, picture.get("file_name")))
            mask = encoded_mask(annotation.get("segmentation"), size, "the thing referred to")
            sentences = [sentence["sent"].strip() for sentence in ref["sentences"]]
            questions = [
                EncodedQuestion(f"What is {sent} in this image?", f"It is {PLACEHOLDER}.", (mask,), (sent,))
                for sent in sentences
                if sent
            ]
            if not questions:
                raise DataError("it has no sentence")
            by_image.setdefault(picture["id"], []).extend(questions)
        except DataError as error:
            skipped.append(f"{name}: {error}")
        except (KeyError, TypeError, AttributeError):
            skipped.append(f"{name}: its sentences are not texts")
    records = [
        Record(f"image {number}", folder / pictures[number]["file_name"], tuple(questions), split)
        for number, questions in by_image.items()
    ]
    return records, skipped


def _unpickled(path: Path) -> list[Any]:
    try:
        data = path.read_bytes()
        # The unpickler allocates its memo up to the largest index the file names.
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
                raise pickle.UnpicklingError("it numbers more values than it has bytes")
        refs = _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path} is not a refs file of plain values: {error}.") from None
    if not isinstance(refs, list):
        raise DataError(f"{path} does not hold a list of refs.")
    return refs
