"""The collector's queue, and the paths of all job functions in it, by which RQ finds them."""

from __future__ import annotations

from typing import Final

CORRECTIONS_QUEUE: Final = "pixellm-corrections"

PROCESS_EVENT: Final = "backend.corrections.jobs.process_event"
REQUEUE_OVERDUE: Final = "backend.corrections.jobs.requeue_overdue"
RECONCILE_ALL: Final = "backend.corrections.jobs.reconcile_all"
TRAIN_ALL: Final = "backend.corrections.jobs.train_all"
CLEAN_UP: Final = "backend.corrections.jobs.clean_up"
