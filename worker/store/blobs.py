"""Images by their content: a file's name is its SHA-256, so that it is kept once and never changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fsspec

from worker.settings import Settings

SUFFIXES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


class Blobs:
    """A folder at any URL that fsspec knows (`s3://...` needs s3fs, and so on)."""

    def __init__(self, settings: Settings) -> None:
        url = settings.image_store_url or str((settings.data_dir / "images").absolute())
        self._files, self._root = fsspec.core.url_to_fs(url)

    def put(self, data: bytes) -> str:
        """Keeps `data` and returns its name, the SHA-256 with a suffix by content."""
        name = hashlib.sha256(data).hexdigest() + _suffix(data)
        path = self._path(name)
        if not self._files.exists(path):
            # Written beside and moved: a name stands for whole content from the moment it is there.
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            beside = f"{path}.{id(data):x}.part"
            with self._files.open(beside, "wb") as file:
                file.write(data)
            self._files.mv(beside, path)
        return name

    def get(self, name: str) -> bytes:
        """Raises FileNotFoundError, and ValueError when the content is not what the name says."""
        with self._files.open(self._path(name), "rb") as file:
            data: bytes = file.read()
        if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
            raise ValueError(f"The stored image {name} is damaged; its content has another hash.")
        return data

    def delete(self, name: str) -> None:
        if self._files.exists(self._path(name)):
            self._files.rm(self._path(name))

    def save_to(self, name: str, folder: Path) -> Path:
        """A copy in a local folder, unless it is there already."""
        path = folder / name
        if not path.exists():
            beside = path.with_suffix(".part")
            beside.write_bytes(self.get(name))
            beside.replace(path)
        return path

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in SUFFIXES.items() if data.startswith(start)), "")
