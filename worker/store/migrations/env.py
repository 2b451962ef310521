"""Alembic runs this; `Database.migrate` gives it the connection."""

from alembic import context

from worker.store.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
