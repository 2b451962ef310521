"""The table in docs/settings.md, from the settings classes: `python -m tests.support.settings_table`."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from backend.settings import BackendSettings
from worker.settings import Settings, WorkerSettings

IMAGE_FETCH = {"max_image_bytes", "max_image_pixels", "fetch_timeout_s", "fetch_allow_hosts"}
MODEL = {"model_dir", "device", "dtype"}
LABEL_STUDIO = {"label_studio_url", "label_studio_api_key"}
# `python -m backend`, `python -m backend collect`, `python -m worker` and `python -m worker learn`.
READ_BY = {
    "backend": {
        *LABEL_STUDIO,
        *{"redis_url", "log_level", "result_ttl_s", "data_dir", "database_url"},
        *{"host", "port", "basic_auth_user", "basic_auth_pass", "webhook_secret", "max_body_bytes"},
        *{"spool_dir"},
        *{"predict_wait_s", "batch_wait_s", "history_turns", "model_score_threshold", "min_region_share"},
    },
    "collector": {
        *LABEL_STUDIO,
        *IMAGE_FETCH,
        *{"redis_url", "log_level", "result_ttl_s", "data_dir", "database_url", "image_store_url"},
        *{
            "retrain_every",
            "retrain_cron",
            "retrain_timezone",
            "train_on",
            "spool_dir",
            "reconcile_every_s",
            "prelabel_tasks",
            "model_score_threshold",
            "min_region_share",
        },
    },
    "worker": {
        *LABEL_STUDIO,
        *IMAGE_FETCH,
        *MODEL,
        *{"redis_url", "log_level", "data_dir"},
        *{"job_timeout_s", "worker_batch_size", "image_cache_bytes", "prefix_cache_bytes", "adapters_kept"},
        *{"max_targets"},
    },
    "learner": {
        *MODEL,
        *{"redis_url", "log_level", "data_dir", "database_url", "image_store_url"},
        *{"retrain_recipe", "regression_data", "replay_data", "train_on"},
        *{"gate_margin", "gate_regression", "gate_min_held_out"},
    },
}


def fields() -> dict[str, FieldInfo]:
    """Every setting by name: those of all processes first, then the worker's and the backend's."""
    return {**Settings.model_fields, **WorkerSettings.model_fields, **BackendSettings.model_fields}


def readers(name: str) -> str:
    """The processes that read a setting; "all" if every one does."""
    processes = [process for process, names in READ_BY.items() if name in names]
    return "all" if len(processes) == len(READ_BY) else ", ".join(processes)


def settings_table() -> str:
    """The Markdown table of every environment variable, its default and the processes that read it."""
    rows = ["| variable | default | read by | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields().items():
        default = field.default
        value = default.get_secret_value() if isinstance(default, SecretStr) else default
        text = f"`{value}`" if value not in (None, "") else ""
        rows.append(f"| `{name.upper()}` | {text} | {readers(name)} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(settings_table())
