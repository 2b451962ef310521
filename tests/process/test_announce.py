"""Label Studio is told of every change of the serving version, and no webhook waits for that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from test_collect import make

import worker.__main__ as command_line
from backend.corrections import jobs
from backend.corrections.announce import announce, unannounced
from backend.corrections.collector import Collector
from support.image_server import running_server
from support.label_studio_api import PROJECT, LabelStudioApi
from support.versions import publish
from support.workers import Workers, data_url, eventually
from worker.store.registry import Registry
from worker.store.tables import Announcement


@pytest.fixture
def label_studio() -> Iterator[LabelStudioApi]:
    with running_server() as server:
        tasks = [{"id": number, "data": {"image": data_url(8 + number)}} for number in range(1, 4)]
        yield LabelStudioApi(server, tasks)


@pytest.fixture
def collector(
    label_studio: LabelStudioApi, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Collector]:
    options: dict[str, Any] = {"label_studio_url": label_studio.url, "label_studio_api_key": "a-legacy-token"}
    collector = make(tmp_path, redis_url, **options)
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REDIS_URL", redis_url)
    yield collector
    collector.database.close()


def command(*arguments: str) -> int:
    return command_line.main(["versions", *arguments, "--project", PROJECT])


def start(workers: Workers, collector: Collector, version: str) -> None:
    workers.start("patient", VERSION=version, DATA_DIR=str(collector.settings.data_dir))
    eventually(lambda: any(w.state == "ready" for w in workers.queue.worker_status()), "a worker is ready")


@pytest.mark.parametrize("base", ["stand-in-1", "stand-in-1-int8"])
def test_what_a_command_changes_is_announced(
    workers: Workers, collector: Collector, label_studio: LabelStudioApi, tmp_path: Path, base: str
) -> None:
    registry = Registry(collector.settings)
    publish(registry, tmp_path, "aaaa")
    start(workers, collector, base)
    assert command("promote", "aaaa") == 0
    assert unannounced(registry, collector.database) == [PROJECT]
    jobs.requeue_overdue()
    eventually(lambda: unannounced(registry, collector.database) == [], "it is announced")
    assert label_studio.model_version == f"{base}+aaaa"
    assert {row["model_version"] for row in label_studio.stored.values()} == {f"{base}+aaaa"}
    assert len(label_studio.stored) == 3
    jobs.requeue_overdue()
    assert command("rollback") == 0
    jobs.requeue_overdue()
    eventually(lambda: unannounced(registry, collector.database) == [], "the base is announced")
    assert label_studio.model_version == base and len(label_studio.stored) == 6
    with collector.database.read() as session:
        (row,) = session.scalars(select(Announcement))
    assert (row.project, row.adapter) == (PROJECT, None)
    registry.promote(PROJECT, "aaaa", "test")
    assert announce(collector.settings, collector.database, PROJECT)
    assert label_studio.model_version == f"{base}+aaaa" and len(label_studio.stored) == 6, "none twice"


def test_a_version_of_another_base_is_not_promoted(
    workers: Workers, collector: Collector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(Registry(collector.settings), tmp_path, "aaaa", base="another-2")
    assert command("promote", "aaaa") == 0, "nobody knows better"
    assert "no worker is ready" in capsys.readouterr().err
    start(workers, collector, "stand-in-1")
    assert command("promote", "aaaa") == 1
    assert "trained on the base another-2, and the workers have stand-in-1" in capsys.readouterr().err
    assert announce(collector.settings, collector.database, PROJECT), "it is not tried for ever"


def test_while_label_studio_or_the_workers_are_away_it_waits(
    collector: Collector, label_studio: LabelStudioApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(collector.settings)
    publish(registry, tmp_path, "aaaa")
    registry.promote(PROJECT, "aaaa", "test")
    assert not announce(collector.settings, collector.database, PROJECT)
    away = collector.settings.model_copy(update={"label_studio_url": "", "label_studio_api_key": ""})
    assert not announce(away, collector.database, PROJECT)
    assert "LABEL_STUDIO_URL" in caplog.text and unannounced(registry, collector.database) == [PROJECT]


def test_what_takes_long_runs_beside_the_events_and_once(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(collector: Collector) -> None:
        begun.release()
        go_on.wait(10)

    monkeypatch.setattr(jobs, "reconcile_projects", slow)
    jobs.reconcile_all()
    jobs.reconcile_all()
    assert begun.acquire(timeout=10) and not begun.acquire(timeout=0.2)
    go_on.set()
