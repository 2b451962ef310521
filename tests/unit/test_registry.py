"""The registry: whole or not at all, damage found, pointers that go back."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from pixellm_model import Picture
from pixellm_model.errors import CheckpointError
from support.stand_in_worker import ObedientModel
from support.versions import BASE, publish
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.serving.engine import Engine
from worker.serving.versions import Versions
from worker.settings import Settings
from worker.store.registry import Registry, RegistryError


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Settings(data_dir=tmp_path / "data"))


def test_promoted_versions_serve_and_go_back_in_order(registry: Registry, tmp_path: Path) -> None:
    assert registry.serving("7", BASE) == BASE
    names = [publish(registry, tmp_path, adapter) for adapter in ("aaaa", "bbbb")]
    assert registry.serving("7", BASE) == BASE, "publishing promotes nothing"
    for adapter in ("aaaa", "bbbb"):
        registry.promote("7", adapter, "test")
    assert registry.serving("7", BASE) == names[1] == f"{BASE}+bbbb"
    assert registry.serving("8", BASE) == BASE, "another project"
    assert registry.serving("7", f"{BASE}-int8") == f"{BASE}-int8+bbbb", "the same weights, rounded"
    assert registry.serving("7", "other-base") == "other-base"
    registry.rollback("7")
    assert registry.serving("7", BASE) == names[0]
    registry.rollback("7")
    assert registry.serving("7", BASE) == BASE
    with pytest.raises(RegistryError, match="nothing was before it"):
        registry.rollback("7")
    assert set(registry.names(BASE)) == set(names) and registry.names("other-base") == []


def test_damage_is_found_before_it_serves(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "aaaa")
    folder = registry.verified_folder("aaaa")
    (folder / "adapter_model.safetensors").write_bytes(b"else")
    with pytest.raises(RegistryError, match="missing or damaged"):
        registry.promote("7", "aaaa", "test")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(RegistryError, match="missing or damaged"):
        registry.verified_folder("aaaa")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(RegistryError, match="not a version's manifest"):
        registry.verified_folder("aaaa")
    assert registry.versions() == []


@pytest.mark.parametrize("name", ["../aaaa", "", "a/b", "AAAA", "." * 8])
def test_names_do_not_lead_out_of_the_registry(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="is no version"):
        registry.verified_folder(name)
    with pytest.raises(RegistryError, match="not the number of a project"):
        registry.promote("../7", None, "test")


def test_an_interrupted_publication_leaves_nothing(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "worker.store.registry._sync", lambda path: (_ for _ in ()).throw(OSError("no space left"))
    )
    with pytest.raises(OSError, match="no space"):
        publish(registry, tmp_path, "aaaa")
    assert registry.versions() == [] and not list((tmp_path / "data" / "versions").iterdir())
    monkeypatch.undo()
    assert publish(registry, tmp_path, "aaaa") == publish(registry, tmp_path, "aaaa")


def test_what_a_killed_process_left_is_removed_by_the_next_publication(
    registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path, "aaaa")
    versions = tmp_path / "data" / "versions"
    old, young = versions / ".publishing-old", versions / ".publishing-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "adapter.json").write_text("{}")
    os.utime(old, (0, 0))
    publish(registry, tmp_path, "bbbb")
    assert not old.exists() and young.exists() and len(registry.versions()) == 2


def test_many_promote_at_once_and_none_is_lost(registry: Registry, tmp_path: Path) -> None:
    for adapter in ("aaaa", "bbbb"):
        publish(registry, tmp_path, adapter)
    threads = [
        threading.Thread(target=registry.promote, args=("7", "aaaa" if n % 2 else "bbbb", str(n)))
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pointer = registry.serving_pointer("7")
    assert pointer is not None and len(pointer.before) == 15


class Picky(ObedientModel):
    """A model that refuses one adapter."""

    def with_adapter(self, folder: Path, name: str) -> ObedientModel:
        if name == "bbbb":
            raise CheckpointError("it does not fit")
        return super().with_adapter(folder, name)


class OneImage:
    def load(self, reference: str, task: str | None = None) -> Picture:
        return ObedientModel().prepare(Image.new("RGB", (8, 6)))


def test_a_worker_answers_each_job_with_the_version_it_names(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORD", str(tmp_path / "record.txt"))
    names = [publish(registry, tmp_path, adapter) for adapter in ("aaaa", "bbbb", "cccc")]
    engine = Engine(Versions(Picky(), registry, 1), OneImage(), 4)
    wanted = [BASE, names[0], names[2], names[0], names[1], f"{BASE}+gone", None]
    jobs = [
        SegmentJob(image="data:,", prompt=f"cup {n}", model_version=version)
        for n, version in enumerate(wanted)
    ]
    answers = engine.segment(jobs)
    versions = [getattr(answer, "model_version", None) for answer in answers]
    assert versions == [BASE, names[0], names[2], names[0], BASE, BASE, BASE]
    assert [getattr(answer, "job_id", None) for answer in answers] == [job.job_id for job in jobs]
    said = [answer.warnings[-1] for answer in answers if isinstance(answer, SegmentResult)]
    assert said[4] == "The version bbbb cannot be loaded; the base model answered."
    assert said[5].startswith("The version gone cannot be loaded") and said[6] == "a warning"
    prompts = (tmp_path / "record.txt").read_text().splitlines()
    assert prompts[1] == "cup 1\tcup 3", "jobs of one version are one call"
