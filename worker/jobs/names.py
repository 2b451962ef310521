"""Names of the worker's queues, and the paths of the functions that RQ calls by name."""

from __future__ import annotations

from typing import Final

INTERACTIVE_QUEUE: Final = "pixellm-interactive"
WARM_QUEUE: Final = "pixellm-warm"
BATCH_QUEUE: Final = "pixellm-batch"
TRAINING_QUEUE: Final = "pixellm-training"

SEGMENT: Final = "worker.serving.engine.segment"
WARM: Final = "worker.serving.engine.warm"
TRAIN: Final = "worker.learning.job.run"
