"""Content-addressed image files: a name is the SHA-256 of the content, so files are stored once."""

from __future__ import annotations

import contextlib
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from worker.settings import Settings

OWN_NAME = re.compile(r"[0-9a-f]{64}(\.\w+)?(\.[0-9a-f]+\.part)?")
SUFFIX_BY_MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


class Blobs:
    """The image store: a local folder, or any URL that fsspec knows (`s3://...` needs s3fs, and so on)."""

    def __init__(self, settings: Settings) -> None:
        url = settings.image_store_url or str((settings.data_dir / "images").absolute())
        self._files, self._root = fsspec.core.url_to_fs(url)

    def put(self, data: bytes) -> str:
        """Store a file unless it is there.

        Args:
            data: Its content.

        Returns:
            Its name: the SHA-256 of the content and a suffix by format.
        """
        name = hashlib.sha256(data).hexdigest() + _suffix(data)
        path = self._path(name)
        if not self._files.exists(path):
            # Written to a temporary path and moved: a name never stands for half of the content.
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            temporary_path = f"{path}.{uuid4().hex}.part"
            try:
                with self._files.open(temporary_path, "wb") as file:
                    file.write(data)
                self._files.mv(temporary_path, path)
            finally:
                self._delete(temporary_path)
        return name

    def get(self, name: str) -> bytes:
        """Read a file.

        Args:
            name: Its name, as `put` returned it.

        Returns:
            Its content.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The content is damaged: it has another hash.
        """
        with self._files.open(self._path(name), "rb") as file:
            data: bytes = file.read()
        if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
            raise ValueError(f"The stored image {name} is damaged; its content has another hash.")
        return data

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        self._delete(self._path(name))

    def names(self, before: datetime) -> list[str]:
        """Return the names of the files that were stored before a moment, with what was left unfinished."""
        if not self._files.exists(self._root):
            return []
        files = self._files.find(self._root, detail=True)
        names = []
        for path, info in files.items():
            name, stored_at = path.rpartition("/")[2], _stored_at(info)
            # The store may hold files of others.
            if OWN_NAME.fullmatch(name) and stored_at is not None and stored_at < before:
                names.append(name)
        return names

    def save_to(self, name: str, folder: Path) -> Path:
        """Copy a file to a local folder unless it is there.

        Args:
            name: Its name.
            folder: The local folder; it must exist.

        Returns:
            The path of the copy.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The content is damaged.
        """
        path = folder / name
        if not path.exists():
            temporary_path = path.with_suffix(".part")
            temporary_path.write_bytes(self.get(name))
            temporary_path.replace(path)
        return path

    def _delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if self._files.exists(path):
                self._files.rm(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"


def _stored_at(info: dict[str, Any]) -> datetime | None:
    """Return when a file was stored, which each kind of store names in its own way; None if it does not."""
    names = ("mtime", "LastModified", "last_modified", "updated")
    moment = next((info[name] for name in names if info.get(name) is not None), None)
    if isinstance(moment, int | float):
        return datetime.fromtimestamp(moment, UTC)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in SUFFIX_BY_MAGIC.items() if data.startswith(magic)), "")
