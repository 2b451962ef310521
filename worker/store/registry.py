"""Versions of the model: what was trained, from what, how good it is, and which one serves which project.

    DATA_DIR/versions/<adapter>/manifest.json   beside adapter.json, adapter_model.safetensors, samples.json
    DATA_DIR/serving/<project>.json             the version that answers, and those that did before

A version is named `<base>+<adapter>`. Its folder appears whole or not at all and is never changed. Reading
needs no torch, so that the backend can name versions. Files are as trustworthy as those who may write here;
hashes find damage, and adapters are safetensors and JSON, so that loading one runs no code.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.settings import Settings

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ADAPTER = re.compile(r"[0-9a-z]{4,64}")
PROJECT = re.compile(r"[0-9A-Za-z_-]{1,64}")
INT8 = "-int8"  # the same weights, rounded by the worker


class RegistryError(Exception):
    """A version that is not there or not whole; the message says which and the mend."""


class Manifest(BaseModel):
    """What a version is. `metrics` are figures of candidate and of the version that served then, on the same
    data; `verdict` says whether and why it was promoted; `files` are SHA-256 by name."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    adapter: str = Field(pattern=ADAPTER.pattern)
    base: str
    parent: str
    project: str
    snapshot: str
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    verdict: dict[str, Any]
    created_at: datetime
    files: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.base}+{self.adapter}"


class Serving(BaseModel):
    """One project's pointer. `adapter` None is the base itself; `before` are former pointers, newest last."""

    adapter: str | None = None
    since: datetime
    why: str
    before: list[dict[str, Any]] = []


class Registry:
    """The versions and pointers under DATA_DIR. Several processes may use it at the same time."""

    def __init__(self, settings: Settings) -> None:
        self._versions = settings.data_dir / "versions"
        self._serving = settings.data_dir / "serving"

    def publish(self, folder: Path, manifest: Mapping[str, Any]) -> Manifest:
        """Copies the files of `folder` in as a version; `manifest` has all fields but `files` and
        `created_at`. Publishing the same adapter again changes nothing."""
        if (known := self._folder(manifest["adapter"])).is_dir():
            return self.manifest(known.name)
        self._versions.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".publishing-", dir=self._versions))
        try:
            files = {}
            for path in sorted(folder.iterdir()):
                shutil.copyfile(path, beside / path.name)
                files[path.name] = _sha256(beside / path.name)
            whole = Manifest(**manifest, files=files, created_at=datetime.now(UTC))
            (beside / MANIFEST).write_text(whole.model_dump_json(indent=2) + "\n")
            beside.chmod(0o755)
            _sync(beside)
            beside.rename(known)
            return whole
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def names(self, base: str) -> list[str]:
        """Names of the versions of a base, newest first."""
        return [f"{base}+{one.adapter}" for one in self.versions() if one.base == _plain(base)]

    def versions(self) -> list[Manifest]:
        """All versions, newest first; what cannot be read is named in the log."""
        found = []
        for path in self._versions.glob(f"*/{MANIFEST}"):
            if not path.parent.name.startswith("."):
                try:
                    found.append(self.manifest(path.parent.name))
                except RegistryError as error:
                    log.warning("%s", error)
        return sorted(found, key=lambda manifest: manifest.created_at, reverse=True)

    def manifest(self, adapter: str) -> Manifest:
        """Raises RegistryError."""
        path = self._folder(adapter) / MANIFEST
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RegistryError(f"There is no version {adapter}; see `versions list`.") from None
        except (OSError, ValidationError) as error:
            raise RegistryError(f"{path} is not a version's manifest: {error}") from None

    def folder(self, adapter: str) -> Path:
        """The folder of a version, its files checked against their hashes. Raises RegistryError."""
        folder = self._folder(adapter)
        for name, digest in self.manifest(adapter).files.items():
            if Path(name).name != name or not (folder / name).is_file() or _sha256(folder / name) != digest:
                raise RegistryError(f"{folder / name} is missing or damaged; restore it or roll back.")
        return folder

    def serving(self, project: str | None, base: str) -> str:
        """The name of the version that answers a project where workers serve `base`: its promoted version if
        that is of this base, else the base itself."""
        pointer = self.pointer(project) if project else None
        if pointer is None or pointer.adapter is None:
            return base
        try:
            if self.manifest(pointer.adapter).base == _plain(base):
                return f"{base}+{pointer.adapter}"
            log.warning("project %s: version %s is not of the base %s", project, pointer.adapter, base)
        except RegistryError as error:
            log.warning("project %s: %s", project, error)
        return base

    def pointer(self, project: str) -> Serving | None:
        try:
            return Serving.model_validate_json(self._pointer_path(project).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            log.warning("project %s: its serving pointer cannot be read: %s", project, error)
            return None

    def promote(self, project: str, adapter: str | None, why: str) -> Serving:
        """Makes a version (None: the base) answer a project from the next prompt on. Raises RegistryError."""
        if adapter is not None:
            self.folder(adapter)
        with self._exclusive(project):
            known = self.pointer(project)
            before = [*known.before, known.model_dump(mode="json", exclude={"before"})] if known else []
            return self._point(project, Serving(adapter=adapter, since=_now(), why=why, before=before))

    def rollback(self, project: str) -> Serving:
        """Makes the version answer that did before this one. Raises RegistryError when there is none."""
        with self._exclusive(project):
            known = self.pointer(project)
            if known is None or (known.adapter is None and not known.before):
                raise RegistryError(f"Project {project} is served by the base; nothing was before it.")
            earlier = Serving.model_validate(known.before[-1]) if known.before else None
            adapter = earlier.adapter if earlier else None
            if adapter is not None:
                self.folder(adapter)
            why = f"rolled back from {known.adapter or 'the base'}"
            return self._point(
                project, Serving(adapter=adapter, since=_now(), why=why, before=known.before[:-1])
            )

    def _point(self, project: str, pointer: Serving) -> Serving:
        path = self._pointer_path(project)
        beside = path.with_suffix(".part")
        beside.write_text(pointer.model_dump_json(indent=2) + "\n")
        _sync(beside)
        beside.replace(path)
        return pointer

    @contextmanager
    def _exclusive(self, project: str) -> Iterator[None]:
        path = self._pointer_path(project)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _pointer_path(self, project: str) -> Path:
        if not PROJECT.fullmatch(project):
            raise RegistryError(f"{project[:80]!r} is not the number of a project.")
        return self._serving / f"{project}.json"

    def _folder(self, adapter: str) -> Path:
        if not ADAPTER.fullmatch(adapter):
            raise RegistryError(f"{adapter[:80]!r} is no version; give the part of its name after the +.")
        return self._versions / adapter


def split_name(version: str) -> tuple[str, str | None]:
    """Base and adapter of a version's name.

    >>> split_name("pixellm-mini-0a1b+77c2"), split_name("pixellm-mini-0a1b")
    (('pixellm-mini-0a1b', '77c2'), ('pixellm-mini-0a1b', None))
    """
    base, _, adapter = version.partition("+")
    return base, adapter or None


def _plain(base: str) -> str:
    return base.removesuffix(INT8)


def _now() -> datetime:
    return datetime.now(UTC)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
