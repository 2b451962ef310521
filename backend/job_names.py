"""The collector's queue and the functions that RQ finds by name in it. Every job path stands here."""

from __future__ import annotations

from typing import Final

CORRECTIONS_QUEUE: Final = "pixellm-corrections"

PROCESS_EVENT: Final = "backend.corrections.collector.process_event"
REQUEUE_OVERDUE: Final = "backend.corrections.collector.requeue_overdue"
RECONCILE_ALL: Final = "backend.corrections.collector.reconcile_all"
TRAIN_ALL: Final = "backend.corrections.collector.train_all"
ANNOUNCE_VERSION: Final = "backend.corrections.collector.announce_version"
