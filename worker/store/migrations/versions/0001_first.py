"""Events, proposals, corrections, training runs."""

import sqlalchemy as sa
from alembic import op

from worker.store.tables import Moment

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("project", sa.String(64)),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("received_at", Moment(), nullable=False),
        sa.Column("due_at", Moment(), nullable=False),
    )
    op.create_index("ix_events_due", "events", ["state", "due_at"])
    op.create_index("ix_events_project", "events", ["project"])
    op.create_table(
        "proposals",
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("project", sa.String(64), primary_key=True),
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("at", Moment(), nullable=False),
    )
    op.create_index("ix_proposals_task", "proposals", ["project", "task"])
    op.create_table(
        "corrections",
        sa.Column("annotation", sa.String(64), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("image", sa.String(80)),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("turns", sa.JSON(), nullable=False),
        sa.Column("outcomes", sa.JSON(), nullable=False),
        sa.Column("model_version", sa.String(200)),
        sa.Column("effort_s", sa.Float()),
        sa.Column("taken_at", Moment(), nullable=False),
    )
    op.create_index("ix_corrections_project", "corrections", ["project"])
    op.create_table(
        "training_runs",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(64)),
        sa.Column("step", sa.Integer()),
        sa.Column("steps", sa.Integer()),
        sa.Column("loss", sa.Float()),
        sa.Column("seconds_left", sa.Float()),
        sa.Column("data", sa.JSON()),
        sa.Column("version", sa.String(200)),
        sa.Column("verdict", sa.JSON()),
        sa.Column("error", sa.Text()),
        sa.Column("requested_at", Moment(), nullable=False),
        sa.Column("started_at", Moment()),
        sa.Column("finished_at", Moment()),
    )
    op.create_index("ix_training_runs_project", "training_runs", ["project"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("training_runs", "corrections", "proposals", "events"):
        op.drop_table(table)
