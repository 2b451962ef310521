"""Readers of annotated images. All formats become `Sample`s, decoded on access.

    samples = read_samples("muse_val.json", images="coco")

The formats are described in docs/data.md. Does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pixellm_model.data import coco, muse, reason_seg, refer
from pixellm_model.data.json_file import load_json
from pixellm_model.data.records import EncodedQuestion, Record, SampleSet
from pixellm_model.errors import DataError

if TYPE_CHECKING:
    from pixellm_model.data.rendered import RenderedScenes

__all__ = ["KINDS", "EncodedQuestion", "Record", "SampleSet", "read_samples"]

KINDS = ("muse", "coco", "refer", "reason_seg", "scenes")
DEFAULT_SCENES = 200


def read_samples(
    path: str | Path,
    kind: str | None = None,
    split: str | None = None,
    images: str | Path | None = None,
    limit: int | None = None,
) -> SampleSet | RenderedScenes:
    """Read a data set.

    Args:
        path: A file or folder of annotations.
        kind: One of KINDS; detected from the contents by default.
        split: Only records of this split, such as "held_out".
        images: Folder of the images; by default the one that the format defines.
        limit: Read only this many images, evenly chosen; for kind "scenes" how many to render
            (DEFAULT_SCENES by default).

    Returns:
        The samples. Records that could not be read are left out and named in `skipped`.

    Raises:
        DataError: The path does not exist, is of no known format, or holds no usable record.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; give a file or folder of annotations.")
    if kind is not None and kind not in KINDS:
        raise DataError(f"There are no data of kind {kind!r}; use one of {', '.join(KINDS)}.")
    if kind == "scenes":
        from pixellm_model.data.rendered import RenderedScenes

        return RenderedScenes(path, split, limit or DEFAULT_SCENES)
    if path.is_dir():
        kind, path = _detect_in_folder(path, kind)
    folder = Path(images) if images is not None else None
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}, named as the folder of images, is not a folder.")
    match kind or _detect(path):
        case "refer":
            records, skipped = refer.read(path, split, folder)
        case "reason_seg":
            records, skipped = reason_seg.read(path, folder)
        case "coco":
            records, skipped = coco.read(load_json(path), folder or path.parent / "images")
        case _:
            records, skipped = muse.read(load_json(path), split, folder or path.parent / "images")
    if not records:
        first = f" ({len(skipped)} are malformed, the first: {skipped[0]})" if skipped else ""
        of_split = f" of split {split!r}" if split else ""
        raise DataError(f"{path} holds no usable record{of_split}{first}.")
    if limit is not None and limit < len(records):
        records = [records[number * len(records) // limit] for number in range(limit)]
    return SampleSet(records, skipped)


def _detect_in_folder(path: Path, kind: str | None) -> tuple[str, Path]:
    """The kind of a folder's data, and the file or folder to read."""
    for name, file_kind in (("dataset.json", "muse"), ("instances.json", "coco")):
        if kind in (None, file_kind) and (path / name).is_file() and not list(path.glob("refs*.p")):
            return file_kind, path / name
    if kind in (None, "refer") and list(path.glob("refs*.p")):
        return "refer", path
    if kind in (None, "reason_seg") and list(path.glob("*.json")):
        return "reason_seg", path
    raise DataError(
        f"{path} holds neither dataset.json, instances.json, refs*.p nor *.json next to images; name a file."
    )


def _detect(path: Path) -> str:
    if path.suffix == ".p":
        return "refer"
    content = load_json(path)
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return "coco"
    if isinstance(content, list):
        return "muse"
    raise DataError(f"{path} is neither a MUSE list of images nor a COCO object; see docs/data.md.")
