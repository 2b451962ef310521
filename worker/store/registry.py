"""The registry of model versions: how each was trained, how good it is, and which one serves which project.

    DATA_DIR/versions/<adapter>/manifest.json   and adapter.json, adapter_model.safetensors, samples.json
    DATA_DIR/serving/<project>.json             the version that serves, and those that did before

A version is named `<base>+<adapter>`. Its folder appears complete or not at all and is never changed. The
hashes in the manifest detect damage, not tampering: whoever may write to DATA_DIR is trusted. Adapters are
safetensors and JSON, so that loading one runs no code.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.settings import Settings

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
QUESTIONS = "samples.json"  # the questions of the evaluation, with both answers
ADAPTER_NAME = re.compile(r"[0-9a-z]{4,64}")
PROJECT_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")
PUBLISHING = ".publishing-"
UNFINISHED_S = 3600  # no publication takes so long
INT8_SUFFIX = "-int8"  # of a base whose weights the worker rounds; versions do not depend on it


class RegistryError(Exception):
    """A version that is missing or damaged; the message says which one and what to do."""


class Manifest(BaseModel):
    """The description of a version.

    Attributes:
        format: The format of the manifest.
        adapter: The version's own part of its name.
        base: The base model's version.
        parent: The version that served the project when this one was trained.
        project: The project whose corrections it was trained on.
        snapshot: The hash of the snapshot of corrections.
        recipe: How it was trained.
        metrics: Figures of this version and of `parent`, on the same data.
        verdict: Whether and why the gate promoted it.
        created_at: When it was published.
        files: SHA-256 of each file, by name.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    adapter: str = Field(pattern=ADAPTER_NAME.pattern)
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
        """The name of the version, `<base>+<adapter>`."""
        return f"{self.base}+{self.adapter}"


class Serving(BaseModel):
    """The pointer to the version that serves a project.

    Attributes:
        adapter: The version's adapter; None is the base model.
        since: When it was set.
        why: Why it was set.
        before: Earlier pointers, newest last.
    """

    adapter: str | None = None
    since: datetime
    why: str
    before: list[dict[str, Any]] = []


class Registry:
    """The versions and pointers in DATA_DIR. Several processes may use it at the same time."""

    def __init__(self, settings: Settings) -> None:
        self._versions = settings.data_dir / "versions"
        self._serving = settings.data_dir / "serving"

    def publish(self, folder: Path, manifest: Mapping[str, Any]) -> Manifest:
        """Publish a version; publishing the same adapter again changes nothing.

        Args:
            folder: Its files; they are copied.
            manifest: All fields of its `Manifest` but `files` and `created_at`.

        Returns:
            The manifest.

        Raises:
            RegistryError: The adapter's name is not valid.
        """
        if (target := self._folder(manifest["adapter"])).is_dir():
            return self.manifest(target.name)
        self._versions.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        temporary_folder = Path(tempfile.mkdtemp(prefix=PUBLISHING, dir=self._versions))
        try:
            files = {}
            for path in sorted(folder.iterdir()):
                shutil.copyfile(path, temporary_folder / path.name)
                files[path.name] = _sha256(temporary_folder / path.name)
            complete = Manifest(**manifest, files=files, created_at=datetime.now(UTC))
            (temporary_folder / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n")
            temporary_folder.chmod(0o755)
            _sync(temporary_folder)
            temporary_folder.rename(target)
            return complete
        finally:
            shutil.rmtree(temporary_folder, ignore_errors=True)

    def _remove_unfinished(self) -> None:
        """Remove what processes left that were killed while they published."""
        for folder in self._versions.glob(f"{PUBLISHING}*"):
            if time.time() - folder.stat().st_mtime > UNFINISHED_S:
                shutil.rmtree(folder, ignore_errors=True)

    def names(self, base: str) -> list[str]:
        """The names of the versions of a base, newest first."""
        return [f"{base}+{manifest.adapter}" for manifest in self.versions() if is_of_base(manifest, base)]

    def versions(self) -> list[Manifest]:
        """All versions, newest first; those that cannot be read are logged and left out."""
        manifests = []
        for path in self._versions.glob(f"*/{MANIFEST}"):
            if not path.parent.name.startswith("."):
                try:
                    manifests.append(self.manifest(path.parent.name))
                except RegistryError as error:
                    log.warning("%s", error)
        return sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True)

    def manifest(self, adapter: str) -> Manifest:
        """Read the manifest of a version.

        Raises:
            RegistryError: There is no such version, or its manifest is damaged.
        """
        path = self._folder(adapter) / MANIFEST
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RegistryError(f"There is no version {adapter}; see `versions list`.") from None
        except (OSError, ValidationError) as error:
            raise RegistryError(f"{path} is not a version's manifest: {error}") from None

    def verified_folder(self, adapter: str) -> Path:
        """Check the files of a version against their hashes.

        Args:
            adapter: The version's adapter.

        Returns:
            The folder of the files.

        Raises:
            RegistryError: There is no such version, or a file is missing or damaged.
        """
        folder = self._folder(adapter)
        for name, digest in self.manifest(adapter).files.items():
            if Path(name).name != name or not (folder / name).is_file() or _sha256(folder / name) != digest:
                raise RegistryError(f"{folder / name} is missing or damaged; restore it or roll back.")
        return folder

    def serving(self, project: str | None, base: str) -> str:
        """Find the version that serves a project.

        Args:
            project: The project; None is served by the base.
            base: The version of the base model that workers have loaded.

        Returns:
            The name of the project's promoted version if that is of this base, else `base`.
        """
        pointer = self.serving_pointer(project) if project else None
        if pointer is None or pointer.adapter is None:
            return base
        try:
            if is_of_base(self.manifest(pointer.adapter), base):
                return f"{base}+{pointer.adapter}"
            log.warning("project %s: version %s is not of the base %s", project, pointer.adapter, base)
        except RegistryError as error:
            log.warning("project %s: %s", project, error)
        return base

    def projects(self) -> list[str]:
        """The projects whose serving version was ever set."""
        return sorted(path.stem for path in self._serving.glob("*.json"))

    def serving_pointer(self, project: str) -> Serving | None:
        """Read the serving pointer of a project; None if it has none, or a damaged one.

        Raises:
            RegistryError: The project's name is not valid.
        """
        try:
            return Serving.model_validate_json(self._pointer_path(project).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            log.warning("project %s: its serving pointer cannot be read: %s", project, error)
            return None

    def promote(self, project: str, adapter: str | None, why: str) -> Serving:
        """Let a version serve a project from the next prompt on.

        Args:
            project: The project.
            adapter: The version's adapter; None: the base model.
            why: The reason, for people.

        Returns:
            The new pointer.

        Raises:
            RegistryError: The version is missing or damaged.
        """
        if adapter is not None:
            self.verified_folder(adapter)
        with self._exclusive(project):
            current = self.serving_pointer(project)
            before = [*current.before, current.model_dump(mode="json", exclude={"before"})] if current else []
            return self._set_pointer(project, Serving(adapter=adapter, since=_now(), why=why, before=before))

    def rollback(self, project: str) -> Serving:
        """Let the previous version serve a project again.

        Args:
            project: The project.

        Returns:
            The new pointer.

        Raises:
            RegistryError: There is no previous version, or it is missing or damaged.
        """
        with self._exclusive(project):
            current = self.serving_pointer(project)
            if current is None or (current.adapter is None and not current.before):
                raise RegistryError(f"Project {project} is served by the base; nothing was before it.")
            previous = Serving.model_validate(current.before[-1]) if current.before else None
            adapter = previous.adapter if previous else None
            if adapter is not None:
                self.verified_folder(adapter)
            why = f"rolled back from {current.adapter or 'the base'}"
            return self._set_pointer(
                project, Serving(adapter=adapter, since=_now(), why=why, before=current.before[:-1])
            )

    def _set_pointer(self, project: str, pointer: Serving) -> Serving:
        path = self._pointer_path(project)
        temporary_path = path.with_suffix(".part")
        temporary_path.write_text(pointer.model_dump_json(indent=2) + "\n")
        _sync(temporary_path)
        temporary_path.replace(path)
        return pointer

    @contextmanager
    def _exclusive(self, project: str) -> Iterator[None]:
        path = self._pointer_path(project)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _pointer_path(self, project: str) -> Path:
        if not PROJECT_NAME.fullmatch(project):
            raise RegistryError(f"{project[:80]!r} is not the number of a project.")
        return self._serving / f"{project}.json"

    def _folder(self, adapter: str) -> Path:
        if not ADAPTER_NAME.fullmatch(adapter):
            raise RegistryError(f"{adapter[:80]!r} is no version; give the part of its name after the +.")
        return self._versions / adapter


def split_name(version: str) -> tuple[str, str | None]:
    """Split a version's name into base and adapter (None for a base).

    >>> split_name("pixellm-mini-0a1b+77c2"), split_name("pixellm-mini-0a1b")
    (('pixellm-mini-0a1b', '77c2'), ('pixellm-mini-0a1b', None))
    """
    base, _, adapter = version.partition("+")
    return base, adapter or None


def is_of_base(manifest: Manifest, base: str) -> bool:
    """Whether a version was trained on a base model, rounded to 8 bits or not."""
    return manifest.base == base.removesuffix(INT8_SUFFIX)


def _now() -> datetime:
    return datetime.now(UTC)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
