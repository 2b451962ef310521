"""From webhooks to corrections, on SQLite and on PostgreSQL: nothing lost, nothing twice, nothing undone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from sqlalchemy import select

from backend.corrections import jobs
from backend.corrections.collector import Collector
from backend.corrections.webhook_inbox import WebhookInbox, spool_folder
from backend.settings import BackendSettings
from support.annotations import CHOSEN_NOTHING_ELSE, deletion, drawn, event, mask, picture
from support.postgres import Postgres
from worker.images.fetch import ImageFetcher
from worker.jobs.contract import SegmentJob, SegmentResult, TargetResult
from worker.jobs.masks import to_rle
from worker.jobs.names import TRAINING_QUEUE
from worker.jobs.queue import connect
from worker.settings import WorkerSettings
from worker.store import Blobs, Database, DatabaseUnavailable, dataset, runs
from worker.store.corrections import record_proposal
from worker.store.database import MIGRATIONS
from worker.store.tables import Base, Correction, Event, Proposal, TrainingRun

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database; SQLite's is in DATA_DIR."""
    if request.param == "sqlite":
        return ""
    server: Postgres = request.getfixturevalue("postgres")
    name = f"test_{abs(hash(request.node.nodeid))}"
    return server.create(name)


@pytest.fixture
def collector(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Collector]:
    collector = make(tmp_path, redis_url, database_url)
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    yield collector
    collector.database.close()


def make(tmp_path: Path, redis_url: str, database_url: str = "", **options: Any) -> Collector:
    chosen = BackendSettings(
        redis_url=redis_url, data_dir=tmp_path / "data", database_url=database_url, **options
    )
    fetching = WorkerSettings(data_dir=tmp_path / "data")
    database = Database(chosen)
    database.migrate()
    return Collector(
        chosen, database, Blobs(chosen), ImageFetcher(fetching), connect(redis_url), fetching.max_image_pixels
    )


def inbox(collector: Collector, connection: Redis | None = None) -> WebhookInbox:
    return WebhookInbox(
        collector.database, connection or collector.connection, spool_folder(collector.settings)
    )


def send(collector: Collector, *bodies: dict[str, Any]) -> None:
    for body in bodies:
        inbox(collector).store(body["action"], str(body["project"]["id"]), json.dumps(body).encode())


def process_all(collector: Collector) -> None:
    with collector.database.session() as session:
        pending = session.scalars(select(Event.id).where(Event.state == "pending")).all()
    for number in pending:
        jobs.process_event(number)


def corrections(collector: Collector) -> dict[str, Correction]:
    with collector.database.session() as session:
        return {row.annotation: row for row in session.scalars(select(Correction))}


def events(collector: Collector) -> list[Event]:
    with collector.database.session() as session:
        return list(session.scalars(select(Event).order_by(Event.id)))


def test_the_tables_are_what_the_migrations_make(collector: Collector) -> None:
    with collector.database._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_every_migration_can_be_taken_back(collector: Collector) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with collector.database._engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        command.upgrade(config, "head")
        connection.commit()
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_an_annotation_becomes_a_correction_with_its_image(collector: Collector) -> None:
    send(collector, event(5, [drawn()]))
    process_all(collector)
    (correction,) = corrections(collector).values()
    assert (correction.status, correction.project, correction.task, correction.effort_s) == (
        "labelled",
        "1",
        "5",
        4.5,
    )
    assert correction.turns[0]["prompt"] == "Segment the cup." and correction.image is not None
    assert collector.blobs.get(correction.image).startswith(b"\x89PNG")
    (row,) = events(collector)
    assert row.state == "done" and row.body == ""


def test_the_same_event_twice_changes_nothing(collector: Collector) -> None:
    send(collector, event(5, [drawn()]), event(5, [drawn()]))
    process_all(collector)
    assert len(events(collector)) == 1 and len(corrections(collector)) == 1
    send(collector, event(5, [drawn()]))
    assert [row.state for row in events(collector)] == ["done"]


def test_the_same_event_from_many_at_once_is_kept_once(collector: Collector) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: send(collector, event(5, [drawn()])), range(40)))
    assert len(events(collector)) == 1


def test_an_older_event_that_comes_late_does_not_win(collector: Collector) -> None:
    send(collector, event(5, [drawn(), drawn(9)], "ANNOTATION_UPDATED", version=2))
    process_all(collector)
    send(collector, event(5, [drawn()]), event(5, [], "ANNOTATION_UPDATED", version=1))
    process_all(collector)
    (correction,) = corrections(collector).values()
    assert len(correction.turns[0]["targets"]) == 2 and correction.status == "labelled"


def test_a_deleted_annotation_stays_deleted_and_its_image_is_removed(collector: Collector) -> None:
    send(collector, event(5, [drawn()], image=picture(1)), event(6, [drawn()], image=picture(1)))
    process_all(collector)
    image = corrections(collector)["5"].image
    assert image is not None
    send(collector, deletion(5))
    process_all(collector)
    assert collector.blobs.get(image), "annotation 6 still needs it"
    send(collector, deletion(6), event(5, [drawn(), drawn(8)], "ANNOTATION_UPDATED", version=9))
    process_all(collector)
    assert {row.status for row in corrections(collector).values()} == {"deleted"}
    with pytest.raises(FileNotFoundError):
        collector.blobs.get(image)


def test_an_annotation_that_arrives_after_its_deletion_is_ignored(collector: Collector) -> None:
    send(collector, deletion(5))
    send(collector, {"action": "TASKS_DELETED", "tasks": [{"id": 70}], "project": {"id": 1}})
    process_all(collector)
    send(collector, event(5, [drawn()]), event(6, [drawn()], task=70))
    process_all(collector)
    assert {row.status for row in corrections(collector).values()} == {"deleted"}
    assert "6" not in corrections(collector)


def test_deleting_a_task_deletes_its_annotations(collector: Collector) -> None:
    send(collector, event(5, [drawn()], task=70), event(6, [drawn(4)], task=70), event(7, [drawn()]))
    process_all(collector)
    send(collector, {"action": "TASKS_DELETED", "tasks": [{"id": 70}], "project": {"id": 1}})
    process_all(collector)
    found = corrections(collector)
    assert [found[n].status for n in ("5", "6", "7")] == ["deleted", "deleted", "labelled"]
    assert dataset.statistics(collector.database, "1")["images"] in ({"train": 1}, {"held_out": 1})


def test_skipped_and_empty_annotations_teach_no_masks(collector: Collector) -> None:
    send(collector, event(5, [drawn()], was_cancelled=True), event(6, []))
    process_all(collector)
    found = corrections(collector)
    assert (found["5"].status, found["5"].turns, found["5"].image) == ("skipped", [], None)
    assert (found["6"].status, found["6"].turns) == ("empty", [])


def proposal(job: SegmentJob) -> SegmentResult:
    rle = to_rle(mask(4))
    return SegmentResult(
        job_id=job.job_id,
        answer="cup is [1].",
        targets=(TargetResult(phrase="cup", score=0.5, box=(4, 3, 9, 9), mask=rle),),
        width=16,
        height=12,
        model_version="base-1+abcd",
    )


def test_only_an_explicit_choice_rejects_what_was_proposed(collector: Collector) -> None:
    job = SegmentJob(image="data:,", prompt="the cup", project="1", task="6")
    with collector.database.session() as session:
        record_proposal(session, job, proposal(job))
        record_proposal(session, job, proposal(job))
    send(collector, event(6, []))
    process_all(collector)
    correction = corrections(collector)["6"]
    assert (correction.turns, correction.image) == ([], None), "it may only have been forgotten"
    assert "Nothing more to mark" in (correction.reason or "")
    send(collector, event(6, [CHOSEN_NOTHING_ELSE], "ANNOTATION_UPDATED", version=1))
    process_all(collector)
    correction = corrections(collector)["6"]
    assert correction.turns[0]["answer"] == "There is no cup in this image." and correction.image
    assert correction.model_version == "base-1+abcd"
    assert [outcome["kind"] for outcome in correction.outcomes] == ["rejected"]


def test_what_is_hidden_is_recorded_as_it_was_last(collector: Collector) -> None:
    job = SegmentJob(image="data:,", prompt="the cup", project="1", task="6")
    for hidden in ([], [0], []):
        with collector.database.session() as session:
            record_proposal(session, job, proposal(job), hidden)
        with collector.database.session() as session:
            (row,) = session.scalars(select(Proposal))
            assert [target.get("hidden", False) for target in row.targets] == [bool(hidden)]


def test_a_replaced_mask_denies_nothing(collector: Collector) -> None:
    job = SegmentJob(image="data:,", prompt="the cup", project="1", task="6")
    with collector.database.session() as session:
        record_proposal(session, job, proposal(job))
    rectangle = {"type": "rectanglelabels", "value": {"x": 20, "y": 20, "width": 30, "height": 40}}
    send(collector, event(6, [drawn()]))
    process_all(collector)
    image = corrections(collector)["6"].image
    assert image
    send(collector, event(6, [drawn() | rectangle], "ANNOTATION_UPDATED", version=1))
    process_all(collector)
    correction = corrections(collector)["6"]
    assert (correction.status, correction.turns, correction.image) == ("unreadable", [], None)
    assert "rectanglelabels" in (correction.reason or "") and events(collector)[1].reason == correction.reason
    with pytest.raises(FileNotFoundError):
        collector.blobs.get(image)
    send(collector, event(6, [drawn()], "ANNOTATION_UPDATED", version=2))
    process_all(collector)
    correction = corrections(collector)["6"]
    assert (correction.status, correction.reason) == ("labelled", None)


def from_predictions(*results: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """What "Create annotations from predictions" sends: lists, and no time that was spent."""
    bodies = [event(number, result, **fields) for number, result in enumerate(results, start=5)]
    changes: dict[str, Any] = {"lead_time": None, "parent_prediction": 3, "prediction": {}, "completed_by": 1}
    return bodies[0] | {
        "action": "ANNOTATIONS_CREATED",
        "annotation": [body["annotation"] | changes for body in bodies],
        "task": [body["task"] for body in bodies],
    }


def proposed(prompt: str = "the cup") -> dict[str, Any]:
    source = {"job": "seg-1", "target": 0, "prompt": prompt, "label": "Cup"}
    return drawn(4) | {"id": "p", "origin": "prediction", "meta": {"pixellm": source}}


def test_copies_of_predictions_teach_nothing_until_somebody_looks_at_them(collector: Collector) -> None:
    send(collector, from_predictions([proposed()], [drawn()], [proposed()]))
    process_all(collector)
    assert [row.state for row in events(collector)] == ["done"]
    found = corrections(collector)
    assert [found[n].status for n in ("5", "6", "7")] == ["unseen"] * 3
    assert all(not row.turns and "nobody has looked" in (row.reason or "") for row in found.values())
    assert collector.count_new_corrections("1") == 0
    looked_at = event(5, [proposed()], "ANNOTATION_UPDATED", version=1, lead_time=3.2, parent_prediction=3)
    edited = proposed() | {"value": drawn(5)["value"], "origin": "prediction-changed"}
    send(collector, looked_at, event(6, [edited], "ANNOTATION_UPDATED", version=1, parent_prediction=3))
    process_all(collector)
    found = corrections(collector)
    assert [len(found[n].turns) for n in ("5", "6", "7")] == [1, 1, 0]


@pytest.mark.parametrize("seconds", [None, 0.4])
def test_masks_that_nobody_had_time_to_look_at_teach_nothing(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    collector = make(tmp_path, redis_url)
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    send(collector, event(5, [proposed()], lead_time=seconds), event(6, [drawn()], lead_time=seconds))
    process_all(collector)
    found = corrections(collector)
    assert (found["5"].status, found["6"].status) == ("unseen", "labelled"), "what was drawn was seen"


def test_one_unreadable_annotation_of_many_keeps_no_other_back(collector: Collector) -> None:
    body = from_predictions([drawn() | {"value": 3}], [drawn()])
    send(collector, body)
    process_all(collector)
    found = corrections(collector)
    assert (found["5"].status, found["6"].status) == ("unreadable", "unseen")
    assert events(collector)[0].state == "failed"


def test_who_made_it_and_what_a_reviewer_said_is_kept(collector: Collector) -> None:
    send(
        collector,
        event(5, [drawn()], completed_by=7, ground_truth=True),
        event(6, [drawn()], completed_by={"id": 8}, last_action="fixed_and_accepted"),
        event(7, [drawn()], last_action="rejected", ground_truth=True),
    )
    process_all(collector)
    found = corrections(collector)
    assert [(found[n].annotator, found[n].review) for n in ("5", "6", "7")] == [
        ("7", "ground_truth"),
        ("8", "accepted"),
        (None, "rejected"),
    ]


def test_a_picture_that_was_replaced_goes(collector: Collector) -> None:
    send(collector, event(5, [drawn()], image=picture(1)), event(6, [drawn()], image=picture(2)))
    process_all(collector)
    first, shared = (corrections(collector)[n].image for n in ("5", "6"))
    assert first and shared
    send(collector, event(5, [drawn()], "ANNOTATION_UPDATED", version=1, image=picture(2)))
    process_all(collector)
    assert corrections(collector)["5"].image == shared
    with pytest.raises(FileNotFoundError):
        collector.blobs.get(first)
    assert collector.blobs.get(shared)


def test_a_picture_goes_that_was_read_while_its_annotation_was_deleted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = collector.fetcher.read

    def slow_read(reference: str, task: str | None = None) -> bytes:
        send(collector, deletion(5))
        jobs.process_event(2)
        return read(reference, task)

    monkeypatch.setattr(collector.fetcher, "read", slow_read)
    send(collector, event(5, [drawn()]))
    jobs.process_event(1)
    assert corrections(collector)["5"].status == "deleted"
    assert not [path for path in (collector.settings.data_dir / "images").rglob("*") if path.is_file()]


def test_a_time_in_the_future_does_not_outlast_later_changes(collector: Collector) -> None:
    future = event(5, [drawn()])
    future["annotation"]["updated_at"] = "2999-01-01T00:00:00Z"
    send(collector, future)
    process_all(collector)
    send(collector, event(5, [drawn(), drawn(9)], "ANNOTATION_UPDATED", version=1))
    process_all(collector)
    assert len(corrections(collector)["5"].turns[0]["targets"]) == 2


@pytest.mark.parametrize("change", [{"updated_at": "0001-01-01T00:00:00+23:00"}, {"lead_time": {"a": [1]}}])
def test_values_that_cannot_be_stored_are_told_or_left_out(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    collector = make(tmp_path, redis_url)
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    send(collector, event(5, [drawn()], **change))
    process_all(collector)
    (row,) = events(collector)
    assert row.state == ("failed" if "updated_at" in change else "done"), row.reason


def test_the_first_of_several_images_is_learned_from(collector: Collector) -> None:
    body = event(5, [drawn(), drawn(6, "Book") | {"item_index": 1}])
    body["task"]["data"] = {"pages": [picture(1), picture(2)], "classes": [{"value": "Cup"}]}
    xml = body["project"]["label_config"].replace('value="$image"', 'valueList="$pages"')
    body["project"]["label_config"] = xml.replace('name="mask"', 'name="mask" value="$classes"')
    send(collector, body)
    process_all(collector)
    correction = corrections(collector)["5"]
    assert [target["label"] for turn in correction.turns for target in turn["targets"]] == ["Cup"]
    assert correction.image and (correction.width, correction.height) == (16, 12)


def test_an_image_that_cannot_be_had_now_is_tried_again(collector: Collector) -> None:
    body = event(5, [drawn()], image="http://127.0.0.1:1/gone.png")
    collector.fetcher = ImageFetcher(WorkerSettings(fetch_allow_hosts="127.0.0.1"))
    send(collector, body)
    process_all(collector)
    (row,) = events(collector)
    assert row.state == "pending" and row.attempts == 1 and "127.0.0.1" in (row.reason or "")
    assert row.body, "nothing is lost meanwhile"
    for _ in range(jobs.MAX_ATTEMPTS):
        process_all(collector)
    (row,) = events(collector)
    assert row.state == "failed"
    assert dataset.statistics(collector.database, "1")["events_failed"] == {row.reason: 1}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (event(5, [drawn()], image=picture(1)[:60]), "base64"),
        (event(5, [{**drawn(), "type": "rectanglelabels", "value": {"x": 1}}]), "rectanglelabels"),
        (event(5, [{**drawn(), "item_index": 1}]), "another one"),
        (event(5, [{**drawn(), "original_width": 17}]), "check original_width|holds"),
        (event(5, [cast("dict[str, Any]", "nonsense"), {**drawn(), "value": 3}]), "no value"),
        ({**event(5, [drawn()]), "project": {"id": 1}}, "no label_config"),
        ({**event(5, [drawn()]), "annotation": {"id": 5, "task": 5}}, "not what Label Studio sends"),
        ({**event(5, [drawn()]), "project": {"id": 1, "label_config": "<View/>"}}, "BrushLabels"),
    ],
)
def test_an_unreadable_event_is_kept_with_the_reason(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], words: str
) -> None:
    collector = make(tmp_path, redis_url)
    monkeypatch.setattr(jobs, "get_collector", lambda: collector)
    send(collector, body, event(6, [drawn()]))
    process_all(collector)
    first, second = events(collector)
    assert first.state == "failed" and first.body
    assert re.search(words, first.reason or ""), first.reason
    assert second.state == "done"


def test_while_the_database_is_away_events_wait_in_files(collector: Collector, tmp_path: Path) -> None:
    away = Database(BackendSettings(database_url="postgresql://127.0.0.1:1/nothing"))
    with pytest.raises(DatabaseUnavailable, match="DATABASE_URL"):
        away.migrate()
    broken_inbox = inbox(collector)
    broken_inbox.database = away
    bodies = [event(number, [drawn()]) for number in (5, 6)]
    for body in bodies:
        broken_inbox.store(body["action"], "1", json.dumps(body).encode())
    assert events(collector) == []
    jobs.requeue_overdue()
    assert len(events(collector)) == 2
    send(collector, event(7, [drawn()]))
    process_all(collector)
    assert sorted(corrections(collector)) == ["5", "6", "7"]
    assert not list((tmp_path / "data" / "inbox").iterdir())


def test_without_redis_events_are_kept_and_requeued_later(collector: Collector) -> None:
    body = event(5, [drawn()])
    inbox(collector, connect(NOWHERE)).store(body["action"], "1", json.dumps(body).encode())
    start = {"action": "START_TRAINING", "project": {"id": 1}}
    inbox(collector, connect(NOWHERE)).store("START_TRAINING", "1", json.dumps(start).encode())
    assert len(events(collector)) == 2
    with collector.database.session() as session:
        for row in session.scalars(select(Event)):
            row.due_at = row.due_at.replace(year=2020)
        (run,) = session.scalars(select(TrainingRun))
        assert run.state == "requested"
    jobs.requeue_overdue()
    assert collector.connection.llen("rq:queue:pixellm-corrections") == 2
    assert collector.connection.llen(f"rq:queue:{TRAINING_QUEUE}") == 1


def test_trainings_coalesce(collector: Collector) -> None:
    start = {"action": "START_TRAINING", "project": {"id": 1}}
    send(collector, start, start, start)
    with collector.database.session() as session:
        (run,) = session.scalars(select(TrainingRun))
        run.state = "running"
    send(collector, start, start)
    with collector.database.session() as session:
        states = [run.state for run in session.scalars(select(TrainingRun).order_by(TrainingRun.id))]
    assert states == ["running", "requested"], "what came since the first began is for one more"
    assert runs.request(collector.database, collector.connection, "2", "other") == 3


def test_enough_corrections_ask_for_a_training(collector: Collector) -> None:
    collector.settings = collector.settings.model_copy(update={"retrain_every": 3})
    send(collector, *(event(number, [drawn()]) for number in (1, 2)), event(9, [], was_cancelled=True))
    process_all(collector)
    with collector.database.session() as session:
        assert session.scalars(select(TrainingRun)).all() == []
    send(collector, *(event(number, [drawn()]) for number in (3, 4)))
    process_all(collector)
    with collector.database.session() as session:
        (run,) = session.scalars(select(TrainingRun))
        assert run.reason == "3 new corrections"


def test_snapshots_are_the_same_for_the_same_corrections(collector: Collector, tmp_path: Path) -> None:
    send(collector, *(event(number, [drawn()]) for number in range(1, 12)))
    process_all(collector)
    found = dataset.corrections_of(collector.database, "1")
    first = dataset.freeze(found, collector.blobs, tmp_path / "first")
    second = dataset.freeze(found, collector.blobs, tmp_path / "second")
    assert replace(first, folder=second.folder) == second and first.train + first.held_out == 11
    records = json.loads((first.folder / "dataset.json").read_text())
    splits = {record["file_name"]: record["split"] for record in records}
    send(collector, deletion(3), event(20, [drawn()]))
    process_all(collector)
    later = dataset.freeze(
        dataset.corrections_of(collector.database, "1"), collector.blobs, tmp_path / "later"
    )
    assert later.hash != first.hash
    for record in json.loads((later.folder / "dataset.json").read_text()):
        assert record["split"] == splits.get(record["file_name"], record["split"]), "no image ever moves"
        assert record["id"] != "3-3"


def test_exports_are_read_by_the_readers(collector: Collector, tmp_path: Path) -> None:
    from pixellm_model.data import read_samples

    send(collector, event(1, [drawn(), drawn(9, "Book")]), event(2, [drawn()]))
    process_all(collector)
    found = dataset.corrections_of(collector.database, "1")
    dataset.export_muse(found, collector.blobs, tmp_path / "muse")
    dataset.export_coco(found, collector.blobs, tmp_path / "coco")
    muse = read_samples(tmp_path / "muse")
    assert [q.text for q in muse[0].questions] == ["Segment the cup.", "Segment the book."]
    (truth,) = muse[0].questions[0].masks
    assert (truth == mask(2)).all()
    coco = read_samples(tmp_path / "coco", kind="coco")
    assert len(coco) == 2 and not coco.skipped


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["create", "update", "empty", "skip", "delete"]), st.integers(1, 3)),
    min_size=1,
    max_size=12,
)


@given(ACTIONS, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_any_repetition_end_the_same(
    redis_server: str, tmp_path_factory: pytest.TempPathFactory, actions: Any, random: Any
) -> None:
    """The last word on each annotation is what is kept, however its events came."""
    bodies: list[dict[str, Any]] = []
    truth: dict[int, str] = {}
    for version, (action, annotation) in enumerate(actions, start=1):
        if truth.get(annotation) == "deleted":
            continue
        result = [] if action == "empty" else [drawn(2 + version % 9)]
        body = event(annotation, result, version=version, was_cancelled=action == "skip")
        bodies.append(deletion(annotation) if action == "delete" else body)
        status = {"empty": "empty", "skip": "skipped", "delete": "deleted"}.get(action, "labelled")
        truth[annotation] = status
    bodies += random.choices(bodies, k=len(bodies))
    random.shuffle(bodies)
    collector = make(tmp_path_factory.mktemp("order"), redis_server)
    original, jobs.get_collector = jobs.get_collector, lambda: collector  # type: ignore[assignment]  # it has no cache_clear
    try:
        for body in bodies:
            send(collector, body)
            if random.random() < 0.5:
                process_all(collector)
        process_all(collector)
    finally:
        jobs.get_collector = original
    found = {int(row.annotation): row.status for row in corrections(collector).values()}
    assert found == truth
