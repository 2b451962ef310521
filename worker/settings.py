"""Settings from environment variables: those that all processes share, and the worker's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import httpx
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of every process. Each field is read from the environment variable of the same name."""

    model_config = SettingsConfigDict(case_sensitive=False, frozen=True, env_file=None, env_ignore_empty=True)

    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey, 6.2 or newer.")
    label_studio_url: str = Field("", description="Label Studio's address as this process reaches it.")
    label_studio_api_key: str = Field("", description="A personal access token or a legacy token.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR."
    )
    result_ttl_s: int = Field(
        3600, gt=0, description="How long an answer is kept and returned for the same prompt."
    )
    data_dir: Path = Field(
        Path("pixellm-data"),
        description="Folder of database, images, versions and training runs; shared by all processes.",
    )
    database_url: str = Field(
        "",
        description="`postgresql://...` or `sqlite:///...`; unset: an SQLite file in `DATA_DIR`.",
    )
    image_store_url: str = Field(
        "", description="Where corrected images are kept, any URL fsspec knows; unset: in `DATA_DIR`."
    )

    spool_dir: Path | None = Field(
        None,
        description="Folder in which webhooks wait while the database is unavailable, best on another disk; "
        "unset: `inbox` in `DATA_DIR`.",
    )
    train_on: Literal["all", "reviewed"] = Field(
        "all",
        description="`reviewed`: only annotations that are ground truth or that a reviewer accepted.",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgres://", "sqlite:///")):
            raise ValueError("must begin with postgresql:// or sqlite:///")
        return url

    @field_validator("label_studio_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        try:
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"is not a URL: {error}") from None
        return url


class WorkerSettings(Settings):
    """Settings of `python -m worker`; its flags override them."""

    model_dir: Path | None = Field(None, description="A PixelLM checkpoint folder; unset: pixellm-mini.")
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    dtype: str = Field("auto", description="`auto`, `float32`, `bfloat16`, `float16` or `int8`.")
    job_timeout_s: int = Field(300, gt=0, description="A segmentation job that runs longer is failed.")
    worker_batch_size: int = Field(
        4, gt=0, description="The most waiting jobs that are run as one batch; 1: one after the other."
    )
    image_cache_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Memory for the images of the last five minutes; 0: none.",
    )
    prefix_cache_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="Device memory for the key-value cache of images prompted before; 0: none.",
    )
    max_targets: int = Field(
        50, gt=0, description="The most masks of one answer; the others are left out, and the answer says so."
    )
    max_image_bytes: int = Field(64 * 2**20, gt=0, description="Larger image files are refused.")
    max_image_pixels: int = Field(64_000_000, gt=0, description="Images with more pixels are refused.")
    fetch_timeout_s: float = Field(30.0, gt=0, description="Time limit for downloading one image.")
    fetch_allow_hosts: str = Field(
        "", description="Comma-separated hosts in private networks that task images may come from."
    )
    adapters_kept: int = Field(
        8, gt=0, description="The most fine-tuned versions in memory, those used last; all share one base."
    )
    retrain_recipe: Path | None = Field(
        None, description="JSON with fields of `FineTuneRecipe` for retraining; unset: chosen by data size."
    )
    regression_data: Path | None = Field(
        None,
        description="A data set on which a new version must not get worse; unset: shipped rendered scenes.",
    )
    replay_data: Path | None = Field(
        None, description="A data set mixed into the training corrections; unset: shipped rendered scenes."
    )
    gate_margin: float = Field(
        0.01, ge=0, le=1, description="The least rise of gIoU on held-out corrections for a promotion."
    )
    gate_regression: float = Field(
        0.03, ge=0, le=1, description="The largest fall of gIoU on the regression set for a promotion."
    )
    gate_min_held_out: int = Field(5, gt=0, description="With fewer held-out images nothing is promoted.")
