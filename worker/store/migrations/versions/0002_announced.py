"""Add the time at which a promotion was announced to Label Studio."""

import sqlalchemy as sa
from alembic import op

from worker.store.tables import Moment

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    op.add_column("training_runs", sa.Column("announced_at", Moment()))
    # What was promoted before this migration was announced at once.
    op.execute("UPDATE training_runs SET announced_at = finished_at WHERE state = 'promoted'")


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("training_runs", "announced_at")
