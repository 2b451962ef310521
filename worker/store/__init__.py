"""What is remembered: events, proposals, corrections, training runs (database), images (blobs). No torch."""

from worker.store.blobs import Blobs
from worker.store.database import Database, DatabaseUnavailable

__all__ = ["Blobs", "Database", "DatabaseUnavailable"]
