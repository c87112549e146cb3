"""Settings: from the environment, `.env`, secret files and one YAML file, in that order of precedence.

Names fixed by convention (`DATABASE_URL`, `HF_TOKEN` …) stand alone; everything else is
`PLEIADES_<GROUP>__<NAME>`, and in YAML `group: {name: …}`.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from atlas import paths, places, sources
from atlas.errors import ConfigError, EmptyKeyRing
from atlas.graph_settings import GraphSettings
from atlas.keypool import RINGS, ApiKey, KeyPool, RingName, parse_key_pool
from atlas.maintainer_settings import MaintainerSettings
from atlas.service_settings import ApiSettings, FederationSettings
from atlas.setting_types import (
    Fraction,
    Group,
    HttpUrl,
    Instant,
    OptionalPath,
    Patterns,
    SecretHttpUrl,
    Texts,
    Urls,
)

__all__ = ["BUCKETS", "RINGS", "ApiKey", "Bucket", "RingName", "Settings", "load", "settings"]

Bucket = Literal["search", "stats", "general"]
BUCKETS: tuple[Bucket, ...] = ("search", "stats", "general")


def _regions(codes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(places.region_code, codes)))


_ARM = re.compile(r"[a-z]+(:[a-z]+)?")


class DatabaseSettings(Group):
    """PostgreSQL, embedded or given by DATABASE_URL."""

    pool_size: int = Field(
        default=4,
        ge=1,
        le=200,
        description="Most connections that one process opens.",
    )
    statement_timeout_s: float = Field(
        default=30, gt=0, le=86_400, description="Longest time that a statement may run."
    )
    lock_timeout_s: float = Field(
        default=5, gt=0, le=86_400, description="Longest time that a statement may wait for a lock."
    )
    connect_timeout_s: float = Field(
        default=30,
        gt=0,
        description="How long to keep trying to connect, for example while the server restarts.",
    )
    shared_buffers_mb: int = Field(
        default=128, ge=16, le=1_048_576, description="The embedded server's page cache, in MB."
    )
    migrate: bool = Field(default=True, description="Migrate the schema when a process opens the database.")


class YouTubeSettings(Group):
    """The YouTube Data API client."""

    base_url: HttpUrl = Field(
        default="https://www.googleapis.com", description="Root URL of the Data API, or of an emulator."
    )
    feed_url: HttpUrl | None = Field(
        default=None,
        description="Root URL of the channels' RSS feeds; if unset, www.youtube.com or a changed base_url.",
    )
    timeout_s: float = Field(default=15, gt=0, description="Longest time that one HTTP request may take.")
    attempts: int = Field(
        default=3, ge=1, le=10, description="How often to try a request that fails for a passing reason."
    )
    total_timeout_s: float = Field(
        default=45, gt=0, description="Longest time that one call may take with its retries."
    )
    concurrency: int = Field(default=8, ge=1, le=100, description="Most requests in progress at once.")


class BucketLimits(Group):
    """Units a Pacific day, by bucket."""

    search: int = Field(default=100, ge=0, le=100_000_000, description="Units a day for search.list.")
    stats: int = Field(
        default=10_000, ge=0, le=100_000_000, description="Units a day for videos.batchGetStats."
    )
    general: int = Field(default=10_000, ge=0, le=100_000_000, description="Units a day for all other calls.")


class BucketShares(Group):
    """The part of each bucket that a ring may spend."""

    search: Fraction = Field(default=0, description="Fraction of the search bucket that the ring may spend.")
    stats: Fraction = Field(default=0, description="Fraction of the stats bucket that the ring may spend.")
    general: Fraction = Field(
        default=0, description="Fraction of the general bucket that the ring may spend."
    )


class BucketReserves(Group):
    """The part of each bucket that agents leave unspent, for people's own calls; one number is for all."""

    search: Fraction = Field(
        default=0.02, description="Fraction of the search bucket that every ring leaves unspent."
    )
    stats: Fraction = Field(
        default=0.05, description="Fraction of the stats bucket that every ring leaves unspent."
    )
    general: Fraction = Field(
        default=0.05, description="Fraction of the general bucket that every ring leaves unspent."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_number_is_for_all(cls, value: Any) -> Any:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return value
        if not 0 <= number <= 1:
            raise ValueError(f"must be between 0 and 1, not {number:g}")
        return dict.fromkeys(BUCKETS, number)


class RingShares(Group):
    """Every ring's part of every bucket; no bucket is given away twice."""

    hunting: BucketShares = Field(
        default=BucketShares(search=1, general=0.4), description="The hunter's parts."
    )
    tracking: BucketShares = Field(
        default=BucketShares(stats=0.9, general=0.5), description="The tracker's parts."
    )
    archeology: BucketShares = Field(
        default=BucketShares(stats=0.1, general=0.1), description="Look-backs' parts."
    )

    @model_validator(mode="after")
    def _no_bucket_is_given_away_twice(self) -> RingShares:
        for bucket in BUCKETS:
            total = sum(getattr(getattr(self, ring), bucket) for ring in RINGS)
            if total > 1 + 1e-9:
                raise ValueError(f"the rings' shares of bucket {bucket!r} add up to {total:g}, more than 1")
        return self


class QuotaSettings(Group):
    """How much quota agents may spend, and when."""

    limits: BucketLimits = Field(default=BucketLimits(), description="A project's daily units by bucket.")
    projects: Annotated[dict[str, BucketLimits], BeforeValidator(sources.grouped)] = Field(
        default_factory=dict, description="Limits that differ for single projects, by project."
    )
    shares: RingShares = Field(default=RingShares(), description="How the rings divide the buckets.")
    reserve: BucketReserves = Field(
        default=BucketReserves(), description="What agents leave unspent, for your own calls."
    )
    pacing: bool = Field(
        default=True,
        description="Spread the day's units over the day, which ends at midnight in Los Angeles.",
    )
    burst: Fraction = Field(
        default=0.1, description="Fraction of the day's units that may be spent ahead of that pace."
    )
    separate_projects_permitted: bool = Field(
        default=False,
        description="Declare that several projects are separate, permitted clients. Spreading one client "
        "over several projects violates YouTube's Developer Policies (III.D.1.c).",
    )
    failures_to_open: int = Field(
        default=5, ge=1, description="Consecutive failures after which a key rests."
    )
    open_s: float = Field(default=60, gt=0, description="How long a key rests before it is tried again.")
    cool_down_s: float = Field(
        default=60, gt=0, description="How long to wait after a 429 that doesn't say how long."
    )


class HunterSettings(Group):
    """The hunter: how it searches, and which tags become topics."""

    strategy: Literal["portfolio", "specification"] = Field(
        default="portfolio",
        description="How to search: by each day's plan of what finds most, or one topic after the other.",
    )
    batch_size: int = Field(default=10, ge=1, le=1000, description="Searches per cycle.")
    lease_s: float = Field(
        default=300, gt=0, description="How long a claim lasts before another agent may take it over."
    )
    max_attempts: int = Field(
        default=5, ge=1, description="Consecutive failures after which a topic is parked."
    )
    retry_after_s: float = Field(
        default=60, ge=0, description="Pause before a failed topic is tried again; it doubles each time."
    )
    order: Literal["date", "rating", "relevance", "title", "videoCount", "viewCount"] = Field(
        default="relevance",
        description="Order of results with the strategy `specification`; otherwise each form has its own.",
    )
    region_code: Annotated[str, AfterValidator(places.region_code)] | None = Field(
        default=None,
        description="Search only for videos that can be watched in this region (ISO 3166-1, such as GB).",
    )
    relevance_language: Annotated[str, AfterValidator(places.language_code)] | None = Field(
        default=None,
        description="Prefer results in this language (ISO 639-1 such as de, or a form such as zh-Hans).",
    )
    results_per_page: int = Field(default=50, ge=1, le=50, description="Search results per page.")
    cooling_s: float = Field(
        default=24 * 3600, ge=0, description="How long a topic rests after its last page of results."
    )
    tags_per_video: int = Field(
        default=10, ge=0, le=100, description="Most tags of one video that become topics, rarest first."
    )
    tag_stop_list: Texts = Field(default=(), description="Tags that never become topics.")
    tag_deny: Patterns = Field(
        default=(), description="Regular expressions: tags that match never become topics."
    )
    queue_cap: int = Field(default=1_000_000, ge=1, description="Most topics the queue holds.")
    half_life_h: float = Field(
        default=48, gt=0, description="Hours after which a waiting topic has lost half of its priority."
    )


class FeedsSettings(Group):
    """Channels' RSS feeds, which show new uploads and their views without using quota."""

    requests_per_s: float = Field(
        default=1,
        gt=0,
        le=100,
        description="Requests for feeds a second, by all hunters on the database together.",
    )
    looks_per_day: int = Field(
        default=20_000,
        ge=1,
        le=10_000_000,
        description="Requests for feeds a day, by all hunters on the database together.",
    )
    refused_back_off_s: float = Field(
        default=3600,
        ge=1,
        description="Pause for all hunters after a 429 or 403 that names none; it doubles each time.",
    )
    failed_back_off_s: float = Field(
        default=60,
        ge=1,
        description="Pause for all hunters after a server error or an answer that is no feed; it doubles.",
    )
    longest_back_off_s: float = Field(default=86_400, ge=1, description="Longest such pause.")


class DiscoverySettings(Group):
    """How the hunter divides its units among sources and forms of search; `maia plan` shows it."""

    pins: Annotated[dict[str, Fraction], BeforeValidator(sources.mapped)] = Field(
        default_factory=dict,
        description="Fixed shares of a bucket by arm, such as search:slices=0.5,charts=0.",
    )
    off: Texts = Field(
        default=(),
        description="Sources and arms not to use, such as charts,search:regions; or search for all.",
    )
    exploration: Fraction = Field(
        default=0.1,
        description="Fraction of each bucket that is split evenly among the arms, to keep learning.",
    )
    cap: Fraction = Field(
        default=0.5, gt=0, description="Most that an arm gets of a bucket while its yield is uncertain."
    )
    growing_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Fraction of the videos found that counts as growing: the fastest of the first 24 hours.",
    )
    regions: Annotated[tuple[str, ...], BeforeValidator(sources.listed()), AfterValidator(_regions)] = Field(
        default=("US", "IN", "BR", "GB", "JP", "DE", "FR", "MX", "KR", "ID"),
        description="Regions whose charts and newest videos are asked for, most important first.",
    )
    window_h: float = Field(
        default=24, ge=1, le=720, description="How far back searches ask for videos, in hours."
    )
    slice_lag_h: float = Field(
        default=1,
        ge=0,
        le=24,
        description="How old the videos of a slice of time are at least, so that their views tell something.",
    )
    topics_per_query: int = Field(
        default=6, ge=2, le=30, description="Most topics that one search joins by OR."
    )
    known_for_h: float = Field(
        default=24,
        ge=0,
        le=600,
        description="How long a stored video's metadata count as fresh: finding it again costs nothing.",
    )
    charts_every_h: float = Field(
        default=6, gt=0, le=720, description="Hours between two looks at the same chart."
    )

    @model_validator(mode="after")
    def _arms_exist(self) -> DiscoverySettings:
        for name, arms in (("pins", tuple(self.pins)), ("off", self.off)):
            for arm in arms:
                if not _ARM.fullmatch(arm):
                    raise ValueError(
                        f"{name}: {arm!r} is no arm; maia plan lists them, such as search:slices"
                    )
        return self

    def is_off(self, arm: str) -> bool:
        """Whether the arm, or the source that it belongs to, is switched off."""
        return arm in self.off or arm.partition(":")[0] in self.off


class TrackerSettings(Group):
    """The tracker: when videos are sampled, and what is computed."""

    batch_size: int = Field(default=1000, ge=1, le=50_000, description="Videos claimed per cycle.")
    lease_s: float = Field(
        default=600, gt=0, description="How long a claim lasts before another agent may take it over."
    )
    retry_after_s: float = Field(
        default=60, ge=0, description="Pause before a failed video is tried again; it doubles each time."
    )
    hot_until_h: float = Field(
        default=24, gt=0, description="Age in hours at which a hot video becomes warm."
    )
    warm_until_h: float = Field(
        default=168, gt=0, description="Age in hours at which a warm video becomes cold."
    )
    hot_interval_h: float = Field(default=1, gt=0, le=720, description="Hours between a hot video's samples.")
    warm_interval_h: float = Field(
        default=6, gt=0, le=720, description="Hours between a warm video's samples."
    )
    cold_interval_h: float = Field(
        default=24, gt=0, le=720, description="Hours between a cold video's samples."
    )
    fastest: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Shortest interval, as a multiple of the zone's, for an accelerating video.",
    )
    slowest: float = Field(
        default=3,
        ge=1,
        le=100,
        description="Longest interval, as a multiple of the zone's, for a video that hardly moves.",
    )
    triage: bool = Field(
        default=True,
        description="Sample young videos that are unlikely to grow as rarely as warm ones.",
    )
    patience: float = Field(
        default=3,
        ge=1,
        description="Most intervals that a video should wait for a sample when quota is short.",
    )
    channel_interval_h: float = Field(default=24, gt=0, description="Hours between a channel's samples.")
    retention_days: int = Field(
        default=30,
        ge=1,
        le=1096,
        description="Days that samples are kept; more than 30 only with YouTube's written consent.",
    )
    half_life_h: float = Field(
        default=6,
        gt=0,
        description="Hours after which a sample's weight in the smoothed velocity has halved.",
    )
    methodology_epoch: Instant = Field(
        default=datetime(2026, 8, 27, tzinfo=UTC),
        description="When YouTube began to count views at the start of playback; no velocity crosses it.",
    )
    false_alarms_per_month: float = Field(
        default=0.05,
        gt=0,
        lt=720,
        description="False breakouts to accept per video and month; lower is stricter.",
    )
    least_rise: float = Field(
        default=3, gt=1, description="How many times the expected velocity counts as a breakout."
    )
    least_velocity: float = Field(
        default=10, ge=0, description="Views per hour below which nothing counts as a breakout."
    )
    breakout_alert: Literal["info", "warning", "error"] = Field(
        default="warning", description="Level of the alert for a breakout."
    )

    @model_validator(mode="after")
    def _zones_follow_each_other(self) -> TrackerSettings:
        if self.hot_until_h >= self.warm_until_h:
            raise ValueError("hot_until_h must be less than warm_until_h")
        return self


class GitSettings(Group):
    """Patterns as sorted JSON, committed to a bare Git repository."""

    enabled: bool = Field(default=False, description="Commit what is known after each learner's cycle.")
    path: OptionalPath = Field(
        default=None, description="The bare repository; if unset, patterns.git in the data folder."
    )
    branch: str = Field(
        default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$", description="The branch to commit to."
    )
    remote: SecretStr | None = Field(default=None, description="URL to push to.")
    auto_push: bool = Field(default=False, description="Push each commit to the remote.")
    author: str = Field(
        default="Pleiades <pleiades@localhost>",
        pattern=r"^[^<>\n]+ <[^<>\n]+>$",
        description="Author of the commits.",
    )
    message: str = Field(
        default="Learn {new} and change {changed} patterns",
        min_length=1,
        max_length=200,
        description="Message of the commits; {new}, {changed} and {gone} are counts of patterns.",
    )

    @field_validator("message")
    @classmethod
    def _message_is_a_template(cls, value: str) -> str:
        try:
            value.format(new=0, changed=0, gone=0)
        except (KeyError, IndexError, ValueError):
            raise ValueError("may contain {new}, {changed} and {gone}, and no other braces") from None
        return value


class LearnerSettings(Group):
    """The learner: what it keeps, what it believes, and what its knowledge may change."""

    batch_size: int = Field(
        default=50_000, ge=100, le=1_000_000, description="Observations to learn in one transaction."
    )
    confidence_threshold: float = Field(
        default=0.7,
        ge=0,
        lt=1,
        description="Lowest confidence of a pattern that may advise or change anything.",
    )
    max_patterns: int = Field(
        default=1000, ge=1, le=1_000_000, description="Most patterns to keep; the least important go first."
    )
    max_retention_days: int = Field(
        default=90, ge=1, le=3650, description="Days after which evidence and alarms are deleted."
    )
    prior_alpha: float = Field(
        default=1, gt=0, le=1000, description="Confirmations that every statement is credited with at first."
    )
    prior_beta: float = Field(
        default=1, gt=0, le=1000, description="Refutations that every statement is credited with at first."
    )
    off: Texts = Field(
        default=(),
        description="Detectors to leave out, such as task_sequences.",
    )
    discovery_priors: bool = Field(
        default=True, description="Let patterns inform how the hunter divides its units."
    )
    forecast_intervals: bool = Field(
        default=True, description="Let forecasts stretch or shorten the tracker's intervals."
    )
    adapt_to_host: bool = Field(
        default=True, description="Do less while the host is hot, busy or on battery."
    )
    adapt_to_quota: bool = Field(
        default=True, description="Let batch sizes follow the quota that is left for the day."
    )
    suggestions: bool = Field(default=True, description="Make suggestions, such as for schedules.")
    snapshot_interval_h: float = Field(
        default=24,
        ge=0,
        le=8760,
        description="Hours between snapshots of the patterns to the vault; 0 for none.",
    )
    expect_failure_below: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="Probability of success under which a question of the hunter waits, except one in ten; "
        "0 for never.",
    )
    llama_model: OptionalPath = Field(
        default=None, description="A GGUF file: classify failures with llama.cpp (extra `llama`)."
    )
    llama_threads: int = Field(default=2, ge=1, le=64, description="Threads that llama.cpp may use.")
    llama_timeout_s: float = Field(default=30, gt=0, description="Longest time for one answer of llama.cpp.")
    git: GitSettings = Field(default=GitSettings(), description="Patterns in Git.")


class PrivacySettings(Group):
    """Pseudonyms for what could identify people or machines in contexts that the learner stores."""

    anonymize_ips: bool = Field(default=True, description="Replace IP addresses by pseudonyms.")
    anonymize_uuids: bool = Field(default=True, description="Replace UUIDs by pseudonyms.")
    key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Secret that pseudonyms are made with; if unset, one kept in the database. "
        "A new key makes new pseudonyms.",
    )


class AgentsSettings(Group):
    """Settings that every agent has."""

    intervals_s: Annotated[dict[str, Annotated[float, Field(ge=1)]], BeforeValidator(sources.mapped)] = Field(
        default_factory=dict,
        description="Seconds between runs by agent, such as hunter=300,tracker=900; by default 600.",
    )


class VaultSettings(Group):
    """Where YouTube's raw answers are archived."""

    required: bool = Field(
        default=False,
        description="Stop when the vault can't store raw answers, instead of keeping them in PostgreSQL.",
    )
    path: OptionalPath = Field(
        default=None, description="Folder of the file vault; if unset, in the data folder."
    )
    url: str | None = Field(default=None, description="Where the s3 vault is, such as s3://bucket/prefix.")
    endpoint_url: HttpUrl | None = Field(
        default=None, description="URL of an S3 service or hub other than Amazon's or Hugging Face's."
    )
    commits_per_hour: int = Field(
        default=128, ge=1, description="Most commits per hour to a Hugging Face dataset."
    )
    retry_s: float = Field(
        default=300, gt=0, description="Pause before an object that the vault refused is stored again."
    )


class NotifierSettings(Group):
    """Where alerts go, and how often."""

    urls: Urls = Field(
        default=(), description="Apprise URLs to send alerts to; if empty, alerts are only logged."
    )
    level: Literal["info", "warning", "error"] = Field(
        default="warning", description="Lowest level of alerts to send."
    )
    cool_down_s: float = Field(default=3600, ge=0, description="Pause before the same alert is sent again.")


class NetworkSettings(Group):
    """How the YouTube client, the vault and alerts reach the internet."""

    proxy: SecretHttpUrl | None = Field(
        default=None,
        examples=["http://proxy.example:3128"],
        description="HTTP proxy for all connections except to this machine, such as http://proxy.example:3128.",
    )
    trust_env: bool = Field(
        default=True,
        description="If `proxy` is unset, use HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.",
    )


class ClockSettings(Group):
    """A virtual clock, shared with an emulator; if unset, the machine's clock."""

    start: Instant | None = Field(default=None, description="Virtual time at the anchor.")
    anchor: Instant | None = Field(
        default=None, description="Real time at which the virtual clock showed `start`."
    )
    speed: float = Field(default=1, gt=0, description="How many times faster than real time the clock runs.")

    @model_validator(mode="after")
    def _both_or_neither(self) -> ClockSettings:
        if (self.start is None) != (self.anchor is None):
            raise ValueError("a virtual clock needs both start and anchor")
        return self


class PrefectSettings(Group):
    """Prefect: its server under `maia up`, the agents it runs, and silent runs."""

    port: int = Field(
        default=4200, ge=1, le=65535, description="Port of the Prefect server that maia up starts."
    )
    database: str = Field(
        default="prefect",
        pattern="^[a-z_][a-z0-9_]{0,62}$",
        description="Name of Prefect's database on the same PostgreSQL server; created if missing.",
    )
    allowed_hosts: Texts = Field(
        default=(),
        description="Further host names under which browsers and programs may reach that server.",
    )
    agents: Texts = Field(
        default=(), description="Agents to run, such as hunter,tracker; if empty, all of them."
    )
    zombie_after_s: float = Field(
        default=960,
        ge=45,
        description="Seconds of silence after which a run counts as crashed; Prefect may lag by 15 minutes.",
    )


class UpSettings(Group):
    """How `maia up` supervises its processes."""

    max_restarts: int = Field(
        default=5,
        ge=0,
        description="Consecutive restarts of a process after which maia up gives up and ends.",
    )
    start_timeout_s: float = Field(
        default=120, gt=0, description="Longest time that a process may take to become ready."
    )
    stop_timeout_s: float = Field(
        default=8, gt=0, description="How long processes may take to end before they are killed."
    )


class MetricsSettings(Group):
    """The Prometheus exporter."""

    port: int = Field(default=9464, ge=0, le=65535, description="Port of /metrics and /health.")


class MonitoringSettings(Group):
    """What is recorded about this machine's load, and about the use of commands and the API."""

    enabled: bool = Field(default=True, description="Record the machine's load and what is used.")
    interval_s: float = Field(
        default=60, ge=1, le=86_400, description="Seconds between samples of the machine under maia up."
    )
    after_cycles: bool = Field(
        default=True,
        description="Also sample after each agent's cycle; maia up, which samples by itself, turns that off.",
    )
    processes: bool | None = Field(
        default=None,
        description="Record the busiest programs by name; if unset, under maia up outside containers.",
    )
    max_retention_days: int = Field(
        default=90, ge=1, le=1096, description="Days that samples of the machine and counts of use are kept."
    )


class LogSettings(Group):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Lowest level to log."
    )
    json_lines: bool = Field(default=False, description="Log one JSON object per line, for machines.")


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
        nested_model_default_partial_update=True,
        allow_inf_nan=False,
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="PostgreSQL, such as postgresql://user:password@host/db; if unset, the embedded server.",
    )
    youtube_api_key_pool_json: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("YOUTUBE_API_KEY_POOL_JSON", "youtube_api_key_pool_json"),
        description='API keys: KEY, or KEY1,KEY2, or by ring {"hunting": [{"key": "…", "project": "…"}], …}.',
    )
    vault_provider: Literal["file", "huggingface", "s3"] = Field(
        default="file",
        validation_alias=AliasChoices("VAULT_PROVIDER", "vault_provider"),
        description="Where YouTube's raw answers are archived.",
    )
    hf_dataset_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_DATASET_ID", "hf_dataset_id"),
        description="Hugging Face dataset for the vault, such as owner/name.",
    )
    hf_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_TOKEN", "hf_token"),
        description="Hugging Face token that may write that dataset.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="Redis that carries evidence between sites within seconds, such as redis://host:6379/0.",
    )
    node_id: str = Field(
        default_factory=_default_node_id,
        min_length=1,
        max_length=100,
        # It stands in alerts and logs, in which a line of its own could pass for one of ours.
        pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$",
        validation_alias=AliasChoices("NODE_ID", "node_id"),
        description="Name of this machine in leases and events.",
    )
    host: str = Field(
        default="127.0.0.1",
        validation_alias=AliasChoices("HOST", "host"),
        description="Address that the HTTP service, Prefect's server and the exporter listen on.",
    )
    port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("PORT", "port"),
        description="Port of the HTTP service and its dashboard; 0 picks a free one.",
    )
    data_dir: OptionalPath = Field(
        default=None,
        description="Folder of the embedded server and the file vault; if unset, ~/.local/share/pleiades, or "
        "/var/lib/pleiades for root.",
    )
    database: DatabaseSettings = Field(default=DatabaseSettings(), description="PostgreSQL.")
    youtube: YouTubeSettings = Field(default=YouTubeSettings(), description="The YouTube client.")
    quota: QuotaSettings = Field(default=QuotaSettings(), description="The quota ledger.")
    agents: AgentsSettings = Field(default=AgentsSettings(), description="Every agent.")
    hunter: HunterSettings = Field(default=HunterSettings(), description="The hunter.")
    feeds: FeedsSettings = Field(default=FeedsSettings(), description="Channels' feeds.")
    discovery: DiscoverySettings = Field(
        default=DiscoverySettings(), description="How the hunter divides its units."
    )
    tracker: TrackerSettings = Field(default=TrackerSettings(), description="The tracker.")
    learner: LearnerSettings = Field(default=LearnerSettings(), description="The learner.")
    maintainer: MaintainerSettings = Field(default=MaintainerSettings(), description="The maintainer.")
    api: ApiSettings = Field(default=ApiSettings(), description="The HTTP service.")
    federation: FederationSettings = Field(
        default=FederationSettings(), description="Sites that learn together."
    )
    graph: GraphSettings = Field(default=GraphSettings(), description="The knowledge graph.")
    privacy: PrivacySettings = Field(default=PrivacySettings(), description="Privacy.")
    network: NetworkSettings = Field(default=NetworkSettings(), description="The network.")
    vault: VaultSettings = Field(default=VaultSettings(), description="Object storage.")
    notifier: NotifierSettings = Field(default=NotifierSettings(), description="Alerts.")
    clock: ClockSettings = Field(default=ClockSettings(), description="The clock.")
    prefect: PrefectSettings = Field(default=PrefectSettings(), description="Prefect.")
    up: UpSettings = Field(default=UpSettings(), description="Everything on one machine.")
    metrics: MetricsSettings = Field(default=MetricsSettings(), description="Metrics.")
    monitoring: MonitoringSettings = Field(
        default=MonitoringSettings(), description="The machine's load, and what is used."
    )
    log: LogSettings = Field(default=LogSettings(), description="Logging.")

    @field_validator("youtube_api_key_pool_json", mode="before")
    @classmethod
    def _structures_become_text(cls, value: Any) -> Any:
        return json.dumps(value) if isinstance(value, (list, dict)) else value

    @model_validator(mode="after")
    def _keys_are_well_formed(self) -> Settings:
        projects = {key.project for keys in self.key_pool.values() for key in keys}
        if len(projects) > 1 and not self.quota.separate_projects_permitted:
            raise ValueError(
                f"YOUTUBE_API_KEY_POOL_JSON names {len(projects)} projects ({', '.join(sorted(projects))}). "
                "Spreading one client over several violates YouTube's Developer Policies (III.D.1.c): use "
                "the keys of one project, or, if these are separate, permitted clients, state it by "
                "PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED=true"
            )
        return self

    @model_validator(mode="after")
    def _the_vault_is_complete(self) -> Settings:
        if self.vault_provider == "huggingface":
            missing = [n for n in ("hf_dataset_id", "hf_token") if getattr(self, n) is None]
            if missing:
                names = ", ".join(f"{name.upper()} required" for name in missing)
                raise ValueError(f"{names} by VAULT_PROVIDER=huggingface: set it, or use VAULT_PROVIDER=file")
        if self.vault_provider == "s3" and not (self.vault.url or "").startswith("s3://"):
            raise ValueError("PLEIADES_VAULT__URL required by VAULT_PROVIDER=s3, such as s3://bucket/prefix")
        return self

    @cached_property
    def key_pool(self) -> KeyPool:
        """The keys of every ring; a ring without keys is empty."""
        if self.youtube_api_key_pool_json is None:
            return dict.fromkeys(RINGS, ())
        return parse_key_pool(self.youtube_api_key_pool_json.get_secret_value())

    def ring_keys(self, ring: RingName) -> tuple[ApiKey, ...]:
        """The keys of one ring; EmptyKeyRing says what to set if there are none."""
        keys = self.key_pool[ring]
        if not keys:
            raise EmptyKeyRing(f"no API key is configured for {ring}: {self._how_to_fill(ring)}")
        return keys

    def _how_to_fill(self, ring: RingName) -> str:
        if not any(self.key_pool.values()):
            return "set YOUTUBE_API_KEY_POOL_JSON to your API key, or practise without one: maia demo"
        return (
            "set YOUTUBE_API_KEY_POOL_JSON to keys for it too "
            f'({{"{ring}": [{{"key": "KEY", "project": "PROJECT"}}], …}}), or to one list for every ring'
        )

    @cached_property
    def data_folder(self) -> Path:
        """The folder of the embedded server and the file vault.

        For root it is in /var/lib, because the unprivileged user that the server runs as may not enter root's
        home.
        """
        try:
            if self.data_dir is not None:
                return self.data_dir.expanduser().absolute()
            return Path("/var/lib/pleiades") if os.geteuid() == 0 else user_data_path("pleiades")
        except RuntimeError as error:
            raise ConfigError(
                f"uid {os.geteuid()} has no home folder here: set PLEIADES_DATA_DIR to the full path of a "
                "folder that it may write"
            ) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return sources.sources_of(settings_cls, init_settings, dotenv_settings, file_secret_settings)


def load(**overrides: Any) -> Settings:
    """Settings from every source; ConfigError names each place that is wrong, never a value."""
    sources.check_env_file()
    try:
        # Where the working folder is closed to us, pydantic would raise.
        env_file = sources.ENV_FILE if paths.is_file(sources.ENV_FILE) else None
        return Settings(**{"_env_file": env_file} | overrides)
    except ValidationError as error:
        details = error.errors(include_input=False)
        lines = [sources.described(detail, Settings, overrides) for detail in details]
        raise ConfigError("\n".join(lines)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """The PLEIADES_* variables that no setting reads."""
    ours = (name for name in environment if name.upper().startswith("PLEIADES_"))
    return sorted(name for name in ours if not _is_known(name))


def _is_known(variable: str) -> bool:
    name = variable.upper().removeprefix("PLEIADES_").lower()
    # The image is for whatever starts containers.
    if name in {"config", "secrets_dir", "image"}:
        return True
    group, _, rest = name.partition("__")
    field = Settings.model_fields.get(group)
    if field is None or group in sources.fixed_names(Settings):
        return False
    return _holds(field.annotation, rest.split("__") if rest else [])


def _holds(annotation: Any, path: list[str]) -> bool:
    if not path:
        return True
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return getattr(annotation, "__origin__", None) is dict
    field = annotation.model_fields.get(path[0])
    return field is not None and _holds(field.annotation, path[1:])


@cache
def _loaded() -> Settings:
    return load()


class _LazySettings:
    """Stands for the process's settings and loads them at the first use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_loaded(), name)

    def __repr__(self) -> str:
        return repr(_loaded())


settings: Settings = cast(Settings, _LazySettings())
