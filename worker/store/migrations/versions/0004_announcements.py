"""Announcements by project, so that every change of the serving version has one; interrupted attempts."""

import sqlalchemy as sa
from alembic import op

from worker.store.tables import Moment

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table with what is announced already, and the column."""
    announcements = op.create_table(
        "announcements",
        sa.Column("project", sa.String(64), primary_key=True),
        sa.Column("adapter", sa.String(64)),
        sa.Column("at", Moment(), nullable=False),
    )
    runs = sa.table("training_runs", *map(sa.column, ("id", "project", "version", "state")))
    announced = sa.column("announced_at", Moment())
    query = (
        sa.select(runs.c.project, runs.c.version, announced)
        .select_from(runs)
        .where(runs.c.state == "promoted", announced.is_not(None))
        .order_by(runs.c.id)
    )
    newest = {project: (version, at) for project, version, at in op.get_bind().execute(query)}
    rows = [
        {"project": project, "adapter": str(version).partition("+")[2] or None, "at": at}
        for project, (version, at) in newest.items()
    ]
    if rows:
        op.bulk_insert(announcements, rows)
    op.drop_column("training_runs", "announced_at")
    op.add_column("events", sa.Column("interrupted", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop the table and the column; what was promoted counts as announced."""
    op.drop_column("events", "interrupted")
    op.add_column("training_runs", sa.Column("announced_at", Moment()))
    op.execute("UPDATE training_runs SET announced_at = finished_at WHERE state = 'promoted'")
    op.drop_table("announcements")
