"""Settings: from the environment, `.env`, one YAML file and secret files, in that order of precedence.

Names fixed by convention (`DATABASE_URL`, `HF_TOKEN` …) stand alone; everything else is
`PLEIADES_<GROUP>__<NAME>`, and in YAML `group: {name: …}`.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError

from atlas.errors import ConfigError, EmptyKeyRing

RingName = Literal["hunting", "tracking", "archeology"]
Bucket = Literal["search", "stats", "general"]
RINGS: tuple[RingName, ...] = ("hunting", "tracking", "archeology")
BUCKETS: tuple[Bucket, ...] = ("search", "stats", "general")

Fraction = Annotated[float, Field(ge=0, le=1)]


class ApiKey(BaseModel):
    """One API key and the Google Cloud project whose quota it spends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: SecretStr = Field(min_length=1)
    project: str = Field(default="default", min_length=1, max_length=100)

    @cached_property
    def fingerprint(self) -> str:
        """A name that identifies the key without giving it away."""
        digest = hashlib.blake2b(self.key.get_secret_value().encode(), digest_size=5)
        return f"key-{digest.hexdigest()}"


KeyPool = Mapping[RingName, tuple[ApiKey, ...]]


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone, such as 2026-11-21T08:00:00Z")
    return instant.astimezone(UTC)


Instant = Annotated[datetime, AfterValidator(_aware)]


class Group(BaseModel):
    """A group of settings: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(Group):
    """PostgreSQL, embedded or given by DATABASE_URL."""

    pool_size: int = Field(8, ge=1, le=200, description="Most connections a process holds.")
    statement_timeout_s: float = Field(30, gt=0, description="Longest a statement may run.")
    lock_timeout_s: float = Field(5, gt=0, description="Longest a statement may wait for a lock.")
    idle_transaction_timeout_s: float = Field(
        60, gt=0, description="Longest a transaction may sit idle: an old snapshot makes claims dear."
    )
    connect_timeout_s: float = Field(
        30, gt=0, description="Longest to keep trying for a connection, as while the server restarts."
    )
    start_timeout_s: float = Field(
        60, gt=0, description="Longest the embedded server may go without progress while it starts."
    )
    shared_buffers_mb: int = Field(128, ge=16, description="The embedded server's page cache.")
    migrate: bool = Field(True, description="Bring the schema up to date when opening.")


class YouTubeSettings(Group):
    """The YouTube Data API client."""

    base_url: str = Field(
        "https://www.googleapis.com", description="Root of the Data API; an emulator's for practice."
    )
    feed_url: str | None = Field(
        None, description="Root of the RSS feeds; by default www.youtube.com, or base_url if that is changed."
    )
    timeout_s: float = Field(15, gt=0, description="Longest one HTTP request may take.")
    connect_timeout_s: float = Field(5, gt=0, description="Longest a connection may take to open.")
    attempts: int = Field(3, ge=1, le=10, description="Tries of a request that fails transiently.")
    total_timeout_s: float = Field(45, gt=0, description="Longest one call may take with its retries.")
    concurrency: int = Field(8, ge=1, le=100, description="Requests under way at once.")


class BucketLimits(Group):
    """Units a Pacific day, by bucket."""

    search: int = Field(100, ge=0, description="search.list calls.")
    stats: int = Field(10_000, ge=0, description="videos.batchGetStats calls.")
    general: int = Field(10_000, ge=0, description="Every other call.")


class BucketShares(Group):
    """The part of each bucket that a ring may spend."""

    search: Fraction = Field(0, description="Part of the search bucket.")
    stats: Fraction = Field(0, description="Part of the stats bucket.")
    general: Fraction = Field(0, description="Part of the general bucket.")


class RingShares(Group):
    """Every ring's part of every bucket; no bucket is given away twice."""

    hunting: BucketShares = Field(
        BucketShares(search=0.9, general=0.4), description="The hunter's parts."
    )
    tracking: BucketShares = Field(
        BucketShares(stats=0.9, general=0.5), description="The tracker's parts."
    )
    archeology: BucketShares = Field(
        BucketShares(search=0.1, stats=0.1, general=0.1), description="Look-backs' parts."
    )

    @model_validator(mode="after")
    def _no_bucket_is_given_away_twice(self) -> RingShares:
        for bucket in BUCKETS:
            total = sum(getattr(getattr(self, ring), bucket) for ring in RINGS)
            if total > 1 + 1e-9:
                raise ValueError(f"the rings' shares of bucket {bucket!r} add up to {total:g}, more than 1")
        return self


class QuotaSettings(Group):
    """What the quota ledger may grant."""

    limits: BucketLimits = Field(BucketLimits(), description="A project's daily units by bucket.")
    projects: dict[str, BucketLimits] = Field(
        default_factory=dict, description="Limits of single projects that differ, by project."
    )
    shares: RingShares = Field(RingShares(), description="How the rings divide the buckets.")
    reserve: Fraction = Field(0.05, description="Part of every ring's share that is never spent.")
    pacing: bool = Field(True, description="Spread the units over the Pacific day.")
    burst: Fraction = Field(
        0.1, description="Part of the day's units that may be spent ahead of the pace."
    )
    separate_projects_permitted: bool = Field(
        False,
        description="State that several projects are separate, permitted clients. One client that spreads "
        "over projects violates YouTube's Developer Policies (III.D.1.c).",
    )
    failures_to_open: int = Field(5, ge=1, description="Failures in a row that open a key's circuit.")
    open_s: float = Field(60, gt=0, description="How long an open circuit waits before its first probe.")
    cool_down_s: float = Field(60, gt=0, description="Cool-down after a short rate limit without Retry-After.")


class HunterSettings(Group):
    """The hunter's cycle and its snowball."""

    batch_size: int = Field(10, ge=1, le=1000, description="Topics claimed in a cycle.")
    lease_s: float = Field(300, gt=0, description="How long a claim holds before others may take it.")
    max_attempts: int = Field(5, ge=1, description="Claims without a stored page before a topic is parked.")
    retry_after_s: float = Field(60, ge=0, description="Pause before a failed topic's next try; doubles.")
    order: Literal["date", "rating", "relevance", "title", "videoCount", "viewCount"] = Field(
        "date", description="Order of search results."
    )
    region_code: str | None = Field(
        None, pattern="^[A-Z]{2}$", description="Only what can be seen there (ISO 3166-1)."
    )
    relevance_language: str | None = Field(None, description="Preferred language (ISO 639-1).")
    results_per_page: int = Field(50, ge=1, le=50, description="Results asked for in a page.")
    max_results: int = Field(500, ge=1, description="Results after which a search is exhausted.")
    token_lifetime_s: float = Field(12 * 3600, gt=0, description="Age at which a page token is dropped.")
    cooling_s: float = Field(24 * 3600, ge=0, description="Pause before an exhausted topic is searched again.")
    tags_per_video: int = Field(10, ge=0, le=100, description="Most tags a video adds, rarest first.")
    tag_stop_list: tuple[str, ...] = Field((), description="Tags that never become topics.")
    tag_deny: tuple[str, ...] = Field((), description="Regular expressions of tags that never become topics.")
    queue_cap: int = Field(1_000_000, ge=1, description="Most topics the queue holds.")
    half_life_h: float = Field(48, gt=0, description="Hours in which a waiting topic's weight halves.")


class VaultSettings(Group):
    """Where raw answers are kept."""

    required: bool = Field(False, description="Leave a page unacknowledged when its answers cannot be kept.")
    path: Path | None = Field(None, description="Folder of the file vault; by default in the data folder.")
    url: str | None = Field(None, description="Root of the s3 vault, such as s3://bucket/prefix.")
    endpoint_url: str | None = Field(None, description="Root of another S3 service or hub than the public one.")
    commits_per_hour: int = Field(128, ge=1, description="Most commits to a Hugging Face dataset an hour.")
    retry_s: float = Field(300, gt=0, description="Pause before an object that was refused is tried again.")


class NotifierSettings(Group):
    """Whom to alert, and how often."""

    urls: tuple[SecretStr, ...] = Field((), description="Apprise URLs; empty: alerts are only logged.")
    level: Literal["info", "warning", "error"] = Field("warning", description="Lowest level that is sent.")
    cool_down_s: float = Field(3600, ge=0, description="Pause before the same alert is sent again.")


class ClockSettings(Group):
    """A virtual clock, shared with an emulator; unset: the machine's clock."""

    start: Instant | None = Field(None, description="What the clock read at the anchor.")
    anchor: Instant | None = Field(None, description="The real instant at which it read start.")
    speed: float = Field(1, gt=0, description="How many times as fast as real time it runs.")

    @model_validator(mode="after")
    def _both_or_neither(self) -> ClockSettings:
        if (self.start is None) != (self.anchor is None):
            raise ValueError("a virtual clock needs both start and anchor")
        return self


class LogSettings(Group):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level shown.")
    json_lines: bool = Field(False, description="One JSON object a line, for machines.")


def _default_node_id() -> str:
    return socket.gethostname()


class Settings(BaseSettings):
    """All settings of a process, immutable."""

    model_config = SettingsConfigDict(
        env_prefix="PLEIADES_",
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="PostgreSQL to use, such as postgresql://user:password@host/db; unset: the embedded server.",
    )
    youtube_api_key_pool_json: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("YOUTUBE_API_KEY_POOL_JSON", "youtube_api_key_pool_json"),
        description='Keys by ring: {"hunting": [{"key": "…", "project": "…"}], …}, or one list for every ring.',
    )
    vault_provider: Literal["file", "huggingface", "s3"] = Field(
        "file",
        validation_alias=AliasChoices("VAULT_PROVIDER", "vault_provider"),
        description="Where raw answers are kept.",
    )
    hf_dataset_id: str | None = Field(
        None,
        validation_alias=AliasChoices("HF_DATASET_ID", "hf_dataset_id"),
        description="Hugging Face dataset of the vault, such as owner/name.",
    )
    hf_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("HF_TOKEN", "hf_token"),
        description="Hugging Face token that may write that dataset.",
    )
    redis_url: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="Redis for the bus between nodes; unset: PostgreSQL.",
    )
    node_id: str = Field(
        default_factory=_default_node_id,
        min_length=1,
        max_length=100,
        validation_alias=AliasChoices("NODE_ID", "node_id"),
        description="Name of this node in leases and events; by default the host's.",
    )
    host: str = Field(
        "127.0.0.1",
        validation_alias=AliasChoices("HOST", "host"),
        description="Address that servers listen on.",
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("PORT", "port"),
        description="Port that servers listen on.",
    )
    data_dir: Path | None = Field(
        None, description="Folder of the embedded server and the file vault; unset: the platform's."
    )
    database: DatabaseSettings = Field(DatabaseSettings(), description="PostgreSQL.")
    youtube: YouTubeSettings = Field(YouTubeSettings(), description="The YouTube client.")
    quota: QuotaSettings = Field(QuotaSettings(), description="The quota ledger.")
    hunter: HunterSettings = Field(HunterSettings(), description="The hunter.")
    vault: VaultSettings = Field(VaultSettings(), description="Object storage.")
    notifier: NotifierSettings = Field(NotifierSettings(), description="Alerts.")
    clock: ClockSettings = Field(ClockSettings(), description="The clock.")
    log: LogSettings = Field(LogSettings(), description="Logging.")
