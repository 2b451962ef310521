"""The tables. Masks in JSON columns are COCO RLE. A change here needs a migration (`migrations/`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Float, Index, Integer, String, Text, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def now() -> datetime:
    """The present, aware and in UTC."""
    return datetime.now(UTC)


class Moment(TypeDecorator[datetime]):
    """A column of aware points in time, in UTC; SQLite does not store the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a value to be stored."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Convert a stored value."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The base class of the tables."""


class Event(Base):
    """A webhook as it came. `body_hash` is the SHA-256 of the body, so that an event is stored once."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_due", "state", "due_at"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    body_hash: Mapped[str] = mapped_column("digest", String(64), unique=True)
    action: Mapped[str] = mapped_column(String(64))
    project: Mapped[str | None] = mapped_column(String(64), index=True)
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), default="pending")  # pending, done, failed
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    # Attempts in a row that did not come to an end: their process was killed.
    interrupted: Mapped[int] = mapped_column(Integer, default=0)
    reason: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(Moment, default=now)
    due_at: Mapped[datetime] = mapped_column(Moment, default=now)


class Proposal(Base):
    """An answer of the model that an annotator was shown."""

    __tablename__ = "proposals"
    __table_args__ = (Index("ix_proposals_task", "project", "task"),)

    # The same answer may be shown in several tasks of one image.
    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(String(64), primary_key=True)
    prompt: Mapped[str] = mapped_column(Text)
    history: Mapped[list[list[str]]] = mapped_column(JSON)
    answer: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str] = mapped_column(String(200))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    targets: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(Moment, default=now)


class Correction(Base):
    """One annotation as it is now.

    `status` is labelled, empty, skipped, unseen (a copy of a prediction that nobody looked at), unreadable or
    deleted; labelled and empty ones with turns are trained on. `turns` are `[{prompt, history, answer,
    targets}]`, their targets `{phrase, label, mask}`; only a row with turns has an image. `outcomes` say what
    became of each proposed target, and `reason` what is not learned and why. `annotator` is the user's id.
    `review` is ground_truth, accepted, rejected or nothing. A row with the key `task-<task>` and the status
    deleted is no annotation: it marks a deleted task.
    """

    __tablename__ = "corrections"

    annotation: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    task: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    updated_at: Mapped[datetime] = mapped_column(Moment)  # Label Studio's
    image: Mapped[str | None] = mapped_column(String(80))  # name in the image store
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    turns: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    outcomes: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    model_version: Mapped[str | None] = mapped_column(String(200))
    effort_s: Mapped[float | None] = mapped_column(Float)
    annotator: Mapped[str | None] = mapped_column(String(64))
    review: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    taken_at: Mapped[datetime] = mapped_column(Moment, default=now)


class TrainingRun(Base):
    """One retraining. `state` is requested, running, promoted, rejected, skipped or failed."""

    __tablename__ = "training_runs"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    reason: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16), default="requested")
    stage: Mapped[str | None] = mapped_column(String(64))
    step: Mapped[int | None] = mapped_column(Integer)
    steps: Mapped[int | None] = mapped_column(Integer)
    loss: Mapped[float | None] = mapped_column(Float)
    seconds_left: Mapped[float | None] = mapped_column(Float)
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    version: Mapped[str | None] = mapped_column(String(200))
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    error: Mapped[str | None] = mapped_column(Text)
    requested_at: Mapped[datetime] = mapped_column(Moment, default=now)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)


class Announcement(Base):
    """The version of a project that Label Studio was told of last; without an adapter it is the base."""

    __tablename__ = "announcements"

    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    adapter: Mapped[str | None] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(Moment, default=now)
