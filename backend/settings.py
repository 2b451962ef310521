"""The backend's settings: those that all processes share, and its own."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter
from pydantic import Field, SecretStr, field_validator

from worker.settings import Settings


class BackendSettings(Settings):
    """The settings of `python -m backend`, read from environment variables."""

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` for all networks.")
    port: int = Field(9090, ge=1, le=65535, description="Port to listen on.")
    basic_auth_user: str = Field("", description="User name Label Studio must send; empty: no login.")
    basic_auth_pass: SecretStr = Field(SecretStr(""), description="The password that goes with it.")
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Accepted at /webhook in the header X-Webhook-Secret; Label Studio sends no login there.",
    )
    predict_wait_s: float = Field(
        90,
        gt=0,
        le=600,
        description="How long a prompt waits for its answer; Label Studio waits 100 s.",
    )
    batch_wait_s: float = Field(
        30, ge=0, le=600, description="How long a batch waits for its answers; the rest is sent on later."
    )
    history_turns: int = Field(
        4,
        ge=0,
        description="How many earlier turns go with a prompt that refers back to them, if the model was "
        "trained on turns (`trained_on_turns` in its config).",
    )
    model_score_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Targets with a lower score are not shown; a control's own `model_score_threshold` comes "
        "first.",
    )
    min_region_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Parts and holes of a mask under this share of the image's area are removed before it is "
        "shown, for example `0.00001`; 0: none.",
    )
    max_body_bytes: int = Field(64 * 2**20, gt=0, description="Larger requests are refused.")
    retrain_every: int = Field(
        50, ge=0, description="Corrections after which a project is trained again; 0: only when asked."
    )
    retrain_cron: str = Field(
        "", description="When to train every project with new corrections, as in cron: `0 2 * * *`."
    )
    retrain_timezone: str = Field(
        "UTC", description="The time zone of `RETRAIN_CRON`, such as `America/New_York`."
    )
    reconcile_every_s: int = Field(
        3600, ge=0, description="How often Label Studio's annotations are compared with ours; 0: never."
    )
    prelabel_tasks: int = Field(
        200, ge=0, description="Waiting tasks that a new version pre-labels at the most; 0: none."
    )

    @field_validator("retrain_timezone")
    @classmethod
    def _is_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is not a time zone; `America/New_York` is one") from None
        return name

    @field_validator("retrain_cron")
    @classmethod
    def _is_cron(cls, text: str) -> str:
        if text and not croniter.is_valid(text):
            raise ValueError("is not a time as in cron; `0 2 * * *` is every night at two")
        return text
