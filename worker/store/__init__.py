"""Storage: database (events, proposals, corrections, training runs), images, versions. No torch."""

from worker.store.blobs import Blobs
from worker.store.database import Database, DatabaseUnavailable

__all__ = ["Blobs", "Database", "DatabaseUnavailable"]
