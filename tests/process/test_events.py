"""Events that fail in every way, a spool folder and a database in trouble: nothing else stops or is lost."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rq import SimpleWorker
from rq.timeouts import JobTimeoutException
from sqlalchemy import select
from starlette.testclient import TestClient
from test_collect import NOWHERE, corrections, events, inbox, make, process_all, send

import worker.__main__ as command_line
from backend.corrections import housekeeping, jobs, webhook_inbox
from backend.corrections.collector import Collector
from backend.http.app import create_app
from support.annotations import drawn, event, picture
from worker.images.decode import decode
from worker.jobs.contract import SegmentJob, SegmentResult
from worker.jobs.queue import connect
from worker.store import Database, DatabaseUnavailable, dataset
from worker.store.corrections import MAX_PROPOSALS, record_proposal
from worker.store.tables import Event, Proposal, now


@pytest.fixture
def collector(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = make(tmp_path, redis_url)
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    yield collector
    collector.database.close()


class Killed(BaseException):
    """What stands for the end of the process."""


def raising(error: BaseException) -> Callable[..., None]:
    def apply(*arguments: object) -> None:
        raise error

    return apply


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("no space left"), RuntimeError("anything"), JobTimeoutException("late")]
)
def test_an_event_that_fails_in_any_way_is_tried_a_few_times(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    send(collector, event(5, [drawn()]))
    monkeypatch.setattr(collector, "apply", raising(error))
    for attempt in range(1, 10):
        process_all(collector)
        (row,) = events(collector)
        if row.state == "failed":
            break
        assert (row.state, row.attempts) == ("pending", attempt) and row.due_at > now() - timedelta(seconds=1)
    assert row.state == "failed" and row.attempts == jobs.MAX_UNEXPECTED and row.body
    assert type(error).__name__ in (row.reason or "")


def test_an_event_that_ends_the_process_is_tried_a_few_times(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(collector, event(5, [drawn()]))
    monkeypatch.setattr(collector, "apply", raising(Killed()))
    for _ in range(jobs.MAX_INTERRUPTED):
        with pytest.raises(Killed):
            jobs.process_event(1)
        (row,) = events(collector)
        assert row.state == "pending" and row.due_at > now(), "it is not tried again while it may be running"
    jobs.process_event(1)
    (row,) = events(collector)
    assert row.state == "failed" and row.reason == jobs.INTERRUPTED


def test_the_time_limit_of_a_job_is_no_damage_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixellm_model.image_file._to_rgb", raising(JobTimeoutException("late")))
    import base64

    with pytest.raises(JobTimeoutException):
        decode(base64.b64decode(picture(1).partition(",")[2]), 10**6)


def test_a_torn_file_in_the_spool_folder_stops_nothing(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook_inbox, "SPOOL_CHECK_S", 0.0)
    spool = webhook_inbox.spool_folder(collector.settings)
    spool.mkdir(parents=True)
    for number, content in enumerate(
        ["", "[]", '{"action": "ANNOT', '{"action": 7, "project": {}, "body": "x"}']
    ):
        (spool / f"{number}.json").write_text(content)
    body = event(6, [drawn()])
    waiting = {"action": body["action"], "project": "1", "body": json.dumps(body)}
    (spool / "9.json").write_text(json.dumps(waiting))
    send(collector, event(5, [drawn()]))
    jobs.requeue_overdue()
    process_all(collector)
    assert sorted(corrections(collector)) == ["5", "6"]
    assert sorted(path.name for path in spool.iterdir()) == [f"{n}.damaged" for n in range(4)]
    assert "set aside" in caplog.text


def test_a_spooled_event_is_on_the_disk_before_it_has_its_name(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = webhook_inbox.spool_folder(collector.settings)
    synced: list[list[str]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(sorted(path.suffix for path in spool.iterdir()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    unavailable = inbox(collector)
    unavailable.database = Database(make_settings(collector, "postgresql://127.0.0.1:1/nothing"))
    unavailable.store("ANNOTATION_CREATED", "1", b"{}")
    assert synced == [[".part"], [".json"]]


def make_settings(collector: Collector, url: str) -> Any:
    return collector.settings.model_copy(update={"database_url": url})


def test_a_spool_folder_that_is_full_is_said_and_leaves_nothing_behind(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    settings = make_settings(collector, "postgresql://127.0.0.1:1/nothing")
    with TestClient(create_app(settings)) as client:
        monkeypatch.setattr(os, "fsync", full)
        answer = client.post("/webhook", json=event(5, [drawn()]))
        assert answer.status_code == 503 and "No space left" in answer.text
        assert not list(webhook_inbox.spool_folder(settings).iterdir())
        monkeypatch.undo()
        other = {"action": "PROJECT_UPDATED", "project": {"id": 1}}
        assert client.post("/webhook", json=other).status_code == 200, "what is not kept cannot be lost"


def test_the_spool_folder_may_be_on_another_disk(collector: Collector, tmp_path: Path) -> None:
    settings = make_settings(collector, "postgresql://127.0.0.1:1/nothing")
    settings = settings.model_copy(update={"spool_dir": tmp_path / "other"})
    with TestClient(create_app(settings)) as client:
        assert client.post("/webhook", json=event(5, [drawn()])).status_code == 200
    assert [path.suffix for path in (tmp_path / "other").iterdir()] == [".json"]


def test_a_locked_database_keeps_no_webhook_and_no_reader_waiting(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.http.app.WEBHOOK_PATIENCE_S", 0.2)
    send(collector, event(5, [drawn()]))
    process_all(collector)
    with TestClient(create_app(collector.settings)) as client:
        path = collector.settings.data_dir / "pixellm.db"
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            read = threading.Thread(target=dataset.statistics, args=(collector.database, "1"))
            read.start()
            for number in range(6, 12):
                assert client.post("/webhook", json=event(number, [drawn()])).status_code == 200
            read.join(timeout=20)
            assert not read.is_alive(), "a reader waits for no writer"
            other.execute("ROLLBACK")
    assert len(list(webhook_inbox.spool_folder(collector.settings).iterdir())) == 6
    jobs.requeue_overdue()
    process_all(collector)
    assert len(corrections(collector)) == 7


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_an_event_in_another_encoding_of_json_is_kept(collector: Collector, encoding: str) -> None:
    inbox(collector).store("ANNOTATION_CREATED", "1", json.dumps(event(5, [drawn()])).encode(encoding))
    process_all(collector)
    assert corrections(collector)["5"].status == "labelled"


def test_an_event_of_another_project_deletes_nothing(collector: Collector) -> None:
    send(collector, event(5, [drawn()]))
    process_all(collector)
    send(collector, {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 5}], "project": {"id": 777}})
    process_all(collector)
    assert corrections(collector)["5"].status == "labelled"


def test_a_deleted_project_leaves_nothing_but_its_versions(collector: Collector) -> None:
    job = SegmentJob(image="data:,", prompt="the cup", project="1", task="6")
    with collector.database.session() as session:
        record_proposal(session, job, answer(job))
    send(collector, event(5, [drawn()], image=picture(1)), event(6, [drawn()], project=2, image=picture(1)))
    process_all(collector)
    image = corrections(collector)["6"].image
    assert image
    send(collector, event(7, [drawn()], image=picture(2)))
    process_all(collector)
    send(collector, {"action": "PROJECT_DELETED", "project": {"id": 1}})
    process_all(collector)
    assert list(corrections(collector)) == ["6"] and collector.known_projects() == ["2"]
    with collector.database.read() as session:
        assert session.scalars(select(Proposal)).all() == []
    assert [path.name for path in images(collector)] == [image], "the other project needs it"


def images(collector: Collector) -> list[Path]:
    return [path for path in (collector.settings.data_dir / "images").rglob("*") if path.is_file()]


def answer(job: SegmentJob) -> SegmentResult:
    return SegmentResult(
        job_id=job.job_id, answer="none", targets=(), width=16, height=12, model_version="base-1"
    )


def test_rows_and_images_that_nothing_needs_are_deleted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(collector, event(5, [drawn()]), event(6, [{**drawn(), "value": 3}]), event(7, [drawn()]))
    process_all(collector)
    kept = {row.image for row in corrections(collector).values() if row.image}
    orphan = collector.blobs.put(b"\x89PNG nobody's")
    foreign = collector.settings.data_dir / "images" / "notes.txt"
    foreign.write_text("of somebody else")
    unfinished = collector.settings.data_dir / "images" / "ab" / f"{'ab' * 32}.png.{'0' * 32}.part"
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.touch()
    for number in range(MAX_PROPOSALS + 5):
        job = SegmentJob(image="data:,", prompt=f"cup {number}", project="1", task="9")
        with collector.database.session() as session:
            record_proposal(session, job, answer(job))
    jobs.clean_up()
    assert len(events(collector)) == 3 and orphan in {path.name for path in images(collector)}, "too young"
    with collector.database.read() as session:
        assert len(session.scalars(select(Proposal)).all()) == MAX_PROPOSALS
    for path in images(collector):
        os.utime(path, (0, 0))
    with collector.database.session() as session:
        for row in session.scalars(select(Event)):
            row.received_at = now() - housekeeping.DONE_KEPT - timedelta(hours=1)
    jobs.clean_up()
    assert [row.state for row in events(collector)] == ["failed"], "people may look at it for longer"
    assert {path.name for path in images(collector)} == kept | {"notes.txt"}


def test_only_reviewed_annotations_are_trained_on_if_the_setting_says_so(collector: Collector) -> None:
    send(
        collector,
        event(5, [drawn()]),
        event(6, [drawn()], ground_truth=True),
        event(7, [drawn()], last_action="accepted"),
        event(8, [drawn()], last_action="rejected"),
    )
    process_all(collector)
    trained = [row.annotation for row in dataset.corrections_of(collector.database, "1")]
    assert trained == ["5", "6", "7"] and collector.count_new_corrections("1") == 3
    reviewed = dataset.corrections_of(collector.database, "1", reviewed_only=True)
    assert [row.annotation for row in reviewed] == ["6", "7"]
    collector.settings = collector.settings.model_copy(update={"train_on": "reviewed"})
    assert collector.count_new_corrections("1") == 2


def test_redis_away_stops_no_event(collector: Collector) -> None:
    collector.connection = connect(NOWHERE)
    collector.settings = collector.settings.model_copy(update={"retrain_every": 1})
    send(collector, event(5, [drawn()]))
    process_all(collector)
    assert corrections(collector)["5"].status == "labelled"


def test_disagreeing_annotators_of_an_image_are_shown(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared: dict[str, Any] = {"image": picture(1), "task": 70}
    send(
        collector,
        event(5, [drawn(2)], completed_by=1, **shared),
        event(6, [drawn(2)], completed_by=2, **shared),
        event(7, [drawn(6), drawn(9, "Book")], completed_by=3, **shared),
        event(8, [{**drawn(), "value": 3}], completed_by=4, **shared),
    )
    process_all(collector)
    monkeypatch.setenv("DATA_DIR", str(collector.settings.data_dir))
    assert command_line.main(["dataset", "show", "5"]) == 0
    shown = capsys.readouterr().out
    assert "by user 1, review none" in shown
    assert "annotation 6 by user 2 agrees; IoU by label: Cup 1.00" in shown
    assert "annotation 7 by user 3 disagrees; IoU by label: Book 0.00, Cup 0.11" in shown
    assert command_line.main(["dataset", "show", "8"]) == 0
    assert "not learned: a region has no value" in capsys.readouterr().out


def make_overdue(collector: Collector) -> None:
    with collector.database.session() as session:
        for row in session.scalars(select(Event)):
            row.due_at = row.due_at.replace(year=2020)


def test_an_event_whose_attempt_met_an_outage_is_queued_again(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(collector, event(5, [drawn()]))
    monkeypatch.setattr(collector, "apply", raising(DatabaseUnavailable("away")))
    worker = SimpleWorker(["pixellm-corrections"], connection=collector.connection, serializer="json")
    worker.work(burst=True, logging_level="CRITICAL")
    monkeypatch.undo()
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    assert [row.state for row in events(collector)] == ["pending"]
    make_overdue(collector)
    jobs.requeue_overdue()
    worker.work(burst=True, logging_level="CRITICAL")
    assert [row.state for row in events(collector)] == ["done"]


def test_events_that_wait_long_are_not_queued_twice(collector: Collector) -> None:
    send(collector, event(5, [drawn()]), event(6, [drawn()]))
    make_overdue(collector)
    collector.connection.lrem("rq:queue:pixellm-corrections", 1, "event-1")
    jobs.requeue_overdue()
    jobs.requeue_overdue()
    queued = collector.connection.lrange("rq:queue:pixellm-corrections", 0, -1)
    assert sorted(queued) == [b"event-1", b"event-2"]
