"""Add who made a correction, whether it was reviewed, and why something in it is not learned."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

COLUMNS = {"annotator": sa.String(64), "review": sa.String(16), "reason": sa.Text()}


def upgrade() -> None:
    """Add the columns."""
    for name, kind in COLUMNS.items():
        op.add_column("corrections", sa.Column(name, kind))


def downgrade() -> None:
    """Drop the columns."""
    for name in COLUMNS:
        op.drop_column("corrections", name)
