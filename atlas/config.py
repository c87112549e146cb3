"""Settings: from the environment, `.env`, secret files and one YAML file, in that order of precedence.

Names fixed by convention (`DATABASE_URL`, `HF_TOKEN` …) stand alone; everything else is
`PLEIADES_<GROUP>__<NAME>`, and in YAML `group: {name: …}`.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

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

    pool_size: int = Field(
        default=4, ge=1, le=200, description="Most connections a process holds; each plans all anew."
    )
    statement_timeout_s: float = Field(default=30, gt=0, description="Longest a statement may run.")
    lock_timeout_s: float = Field(default=5, gt=0, description="Longest a statement may wait for a lock.")
    idle_transaction_timeout_s: float = Field(
        default=60, gt=0, description="Longest a transaction may sit idle: an old snapshot makes claims dear."
    )
    connect_timeout_s: float = Field(
        default=30, gt=0, description="Longest to keep trying for a connection, as while the server restarts."
    )
    start_timeout_s: float = Field(
        default=60, gt=0, description="Longest the embedded server may go without progress while it starts."
    )
    shared_buffers_mb: int = Field(default=128, ge=16, description="The embedded server's page cache.")
    migrate: bool = Field(default=True, description="Bring the schema up to date when opening.")


class YouTubeSettings(Group):
    """The YouTube Data API client."""

    base_url: str = Field(
        default="https://www.googleapis.com", description="Root of the Data API; an emulator's for practice."
    )
    feed_url: str | None = Field(
        default=None, description="Root of the RSS feeds; by default www.youtube.com, or a changed base_url."
    )
    timeout_s: float = Field(default=15, gt=0, description="Longest one HTTP request may take.")
    connect_timeout_s: float = Field(default=5, gt=0, description="Longest a connection may take to open.")
    attempts: int = Field(default=3, ge=1, le=10, description="Tries of a request that fails transiently.")
    total_timeout_s: float = Field(
        default=45, gt=0, description="Longest one call may take with its retries."
    )
    concurrency: int = Field(default=8, ge=1, le=100, description="Requests under way at once.")


class BucketLimits(Group):
    """Units a Pacific day, by bucket."""

    search: int = Field(default=100, ge=0, le=100_000_000, description="search.list calls.")
    stats: int = Field(default=10_000, ge=0, le=100_000_000, description="videos.batchGetStats calls.")
    general: int = Field(default=10_000, ge=0, le=100_000_000, description="Every other call.")


class BucketShares(Group):
    """The part of each bucket that a ring may spend."""

    search: Fraction = Field(default=0, description="Part of the search bucket.")
    stats: Fraction = Field(default=0, description="Part of the stats bucket.")
    general: Fraction = Field(default=0, description="Part of the general bucket.")


class RingShares(Group):
    """Every ring's part of every bucket; no bucket is given away twice."""

    hunting: BucketShares = Field(
        default=BucketShares(search=0.9, general=0.4), description="The hunter's parts."
    )
    tracking: BucketShares = Field(
        default=BucketShares(stats=0.9, general=0.5), description="The tracker's parts."
    )
    archeology: BucketShares = Field(
        default=BucketShares(search=0.1, stats=0.1, general=0.1), description="Look-backs' parts."
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

    limits: BucketLimits = Field(default=BucketLimits(), description="A project's daily units by bucket.")
    projects: dict[str, BucketLimits] = Field(
        default_factory=dict, description="Limits of single projects that differ, by project."
    )
    shares: RingShares = Field(default=RingShares(), description="How the rings divide the buckets.")
    reserve: Fraction = Field(default=0.05, description="Part of every ring's share that is never spent.")
    pacing: bool = Field(default=True, description="Spread the units over the Pacific day.")
    burst: Fraction = Field(
        default=0.1, description="Part of the day's units that may be spent ahead of the pace."
    )
    separate_projects_permitted: bool = Field(
        default=False,
        description="State that several projects are separate, permitted clients. One client that spreads "
        "over projects violates YouTube's Developer Policies (III.D.1.c).",
    )
    failures_to_open: int = Field(default=5, ge=1, description="Failures in a row that open a key's circuit.")
    open_s: float = Field(
        default=60, gt=0, description="How long an open circuit waits before its first probe."
    )
    cool_down_s: float = Field(default=60, gt=0, description="Cool-down where YouTube names none.")


class HunterSettings(Group):
    """The hunter's cycle and its snowball."""

    batch_size: int = Field(default=10, ge=1, le=1000, description="Topics claimed in a cycle.")
    lease_s: float = Field(default=300, gt=0, description="How long a claim holds before others may take it.")
    max_attempts: int = Field(
        default=5, ge=1, description="Claims without a stored page before a topic is parked."
    )
    retry_after_s: float = Field(
        default=60, ge=0, description="Pause before a failed topic's next try; doubles."
    )
    order: Literal["date", "rating", "relevance", "title", "videoCount", "viewCount"] = Field(
        default="date", description="Order of search results."
    )
    region_code: str | None = Field(
        default=None, pattern="^[A-Z]{2}$", description="Only what can be seen there (ISO 3166-1)."
    )
    relevance_language: str | None = Field(default=None, description="Preferred language (ISO 639-1).")
    results_per_page: int = Field(default=50, ge=1, le=50, description="Results asked for in a page.")
    max_results: int = Field(default=500, ge=1, description="Results after which a search is exhausted.")
    token_lifetime_s: float = Field(
        default=12 * 3600, gt=0, description="Age at which a page token is dropped."
    )
    cooling_s: float = Field(default=24 * 3600, ge=0, description="Pause of an exhausted topic.")
    tags_per_video: int = Field(default=10, ge=0, le=100, description="Most tags a video adds, rarest first.")
    tag_stop_list: tuple[str, ...] = Field(default=(), description="Tags that never become topics.")
    tag_deny: tuple[str, ...] = Field(
        default=(), description="Regular expressions of tags that never become topics."
    )
    queue_cap: int = Field(default=1_000_000, ge=1, description="Most topics the queue holds.")
    half_life_h: float = Field(
        default=48, gt=0, description="Hours in which a waiting topic's weight halves."
    )


class TrackerSettings(Group):
    """The tracker's cycle, its clock of three zones, and what it computes."""

    batch_size: int = Field(default=1000, ge=1, le=50_000, description="Videos claimed in a cycle.")
    lease_s: float = Field(default=600, gt=0, description="How long a claim holds before others may take it.")
    retry_after_s: float = Field(
        default=60, ge=0, description="Pause before a failed video's next try; doubles."
    )
    round_s: float = Field(
        default=600, gt=0, description="About how often it runs, to tell who can wait for the next time."
    )
    hot_until_h: float = Field(default=24, gt=0, description="Age at which a video is hot no more.")
    warm_until_h: float = Field(default=168, gt=0, description="Age after which a video is cold.")
    hot_interval_h: float = Field(default=1, gt=0, le=720, description="Hours between a hot video's samples.")
    warm_interval_h: float = Field(
        default=6, gt=0, le=720, description="Hours between a warm video's samples."
    )
    cold_interval_h: float = Field(
        default=24, gt=0, le=720, description="Hours between a cold video's samples."
    )
    fastest: float = Field(
        default=0.5, gt=0, le=1, description="Least part of its zone's interval, for an accelerating video."
    )
    slowest: float = Field(
        default=3, ge=1, le=100, description="Most of its zone's intervals, for a video that hardly moves."
    )
    worthwhile_views: float = Field(
        default=10, gt=0, description="Views an interval should bring; with fewer a video waits longer."
    )
    patience: float = Field(
        default=3, ge=1, description="Intervals that a video waits at most while the quota makes it possible."
    )
    misses_before_gone: int = Field(
        default=2, ge=1, le=100, description="Answers in a row without a video until it counts as deleted."
    )
    metadata_refresh_days: float = Field(
        default=25,
        gt=0,
        lt=30,
        description="Days after which title and tags are fetched anew; the terms allow 30.",
    )
    channel_interval_h: float = Field(default=24, gt=0, description="Hours between a channel's samples.")
    retention_days: int = Field(
        default=30,
        ge=1,
        le=1096,
        description="Days that samples are kept. More than 30 only with YouTube's written consent.",
    )
    half_life_h: float = Field(
        default=6, gt=0, description="Hours in which a view's weight in the smoothed velocity halves."
    )
    methodology_epoch: Instant = Field(
        default=datetime(2026, 8, 27, tzinfo=UTC),
        description="When YouTube began to count a view at the start of playback: no velocity across it.",
    )
    cohort_days: int = Field(
        default=7, ge=1, le=90, description="Days whose velocities a video is compared with."
    )
    false_alarms_per_month: float = Field(
        default=0.05, gt=0, lt=720, description="Mistaken breakouts that a video may have in 30 days."
    )
    least_rise: float = Field(
        default=3, gt=1, description="Factor over the expected velocity that is a breakout."
    )
    least_velocity: float = Field(
        default=10, ge=0, description="Views per hour below which nothing is a breakout."
    )
    breakout_alert: Literal["info", "warning", "error"] = Field(
        default="warning", description="Level of the alert that tells of a breakout."
    )

    @model_validator(mode="after")
    def _zones_follow_each_other(self) -> TrackerSettings:
        if self.hot_until_h >= self.warm_until_h:
            raise ValueError("hot_until_h must be less than warm_until_h")
        return self


class VaultSettings(Group):
    """Where raw answers are kept."""

    required: bool = Field(
        default=False, description="Leave a page unacknowledged when its answers cannot be kept."
    )
    path: Path | None = Field(
        default=None, description="Folder of the file vault; by default in the data folder."
    )
    url: str | None = Field(default=None, description="Root of the s3 vault, such as s3://bucket/prefix.")
    endpoint_url: str | None = Field(default=None, description="Root of another S3 service or hub.")
    commits_per_hour: int = Field(
        default=128, ge=1, description="Most commits to a Hugging Face dataset an hour."
    )
    retry_s: float = Field(
        default=300, gt=0, description="Pause before an object that was refused is tried again."
    )


class NotifierSettings(Group):
    """Whom to alert, and how often."""

    urls: tuple[SecretStr, ...] = Field(
        default=(), description="Apprise URLs; empty: alerts are only logged."
    )
    level: Literal["info", "warning", "error"] = Field(
        default="warning", description="Lowest level that is sent."
    )
    cool_down_s: float = Field(default=3600, ge=0, description="Pause before the same alert is sent again.")


class ClockSettings(Group):
    """A virtual clock, shared with an emulator; unset: the machine's clock."""

    start: Instant | None = Field(default=None, description="What the clock read at the anchor.")
    anchor: Instant | None = Field(default=None, description="The real instant at which it read start.")
    speed: float = Field(default=1, gt=0, description="How many times as fast as real time it runs.")

    @model_validator(mode="after")
    def _both_or_neither(self) -> ClockSettings:
        if (self.start is None) != (self.anchor is None):
            raise ValueError("a virtual clock needs both start and anchor")
        return self


class PrefectSettings(Group):
    """Prefect: its server in `maia up`, what is served to it, and its automations."""

    port: int = Field(default=4200, ge=1, le=65535, description="Port of the server that maia up starts.")
    database: str = Field(
        default="prefect",
        pattern="^[a-z_][a-z0-9_]{0,62}$",
        description="Its own database in the same PostgreSQL; made where it is missing.",
    )
    agents: tuple[str, ...] = Field(default=(), description="Agents to serve; empty: every one there is.")
    intervals_s: dict[str, Annotated[float, Field(ge=1)]] = Field(
        default_factory=dict,
        description='Seconds between runs where they differ from the usual, by agent: {"hunter": 300}.',
    )
    poll_s: float = Field(default=5, ge=1, description="Pause between looks for runs that are due.")
    runs_at_once: int = Field(default=4, ge=1, le=100, description="Runs that one maia serve has under way.")
    zombie_after_s: float = Field(
        default=540,
        ge=45,
        description="Silence after which a run counts as crashed; three of Prefect's heartbeats (180 s).",
    )


class UpSettings(Group):
    """`maia up`: how its processes are kept."""

    max_restarts: int = Field(
        default=5, ge=0, description="Restarts in a row before a process is given up, and all with it."
    )
    restart_s: float = Field(default=1, gt=0, description="Pause before the first restart; doubles.")
    stable_s: float = Field(
        default=60, gt=0, description="Running that long, a process begins to count its restarts anew."
    )
    start_timeout_s: float = Field(
        default=120, gt=0, description="Longest a process may take until it is ready."
    )
    stop_timeout_s: float = Field(
        default=8, gt=0, description="Longest that all may take to end by themselves; then they are killed."
    )


class MetricsSettings(Group):
    """The exporter of metrics."""

    port: int = Field(default=9464, ge=0, le=65535, description="Port of /metrics.")


class LogSettings(Group):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Lowest level shown."
    )
    json_lines: bool = Field(default=False, description="One JSON object a line, for machines.")


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
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="PostgreSQL, such as postgresql://user:password@host/db; unset: the embedded server.",
    )
    youtube_api_key_pool_json: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("YOUTUBE_API_KEY_POOL_JSON", "youtube_api_key_pool_json"),
        description='Keys by ring, {"hunting": [{"key": "…", "project": "…"}], …}, or one list for all.',
    )
    vault_provider: Literal["file", "huggingface", "s3"] = Field(
        default="file",
        validation_alias=AliasChoices("VAULT_PROVIDER", "vault_provider"),
        description="Where raw answers are kept.",
    )
    hf_dataset_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_DATASET_ID", "hf_dataset_id"),
        description="Hugging Face dataset of the vault, such as owner/name.",
    )
    hf_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_TOKEN", "hf_token"),
        description="Hugging Face token that may write that dataset.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
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
        default="127.0.0.1",
        validation_alias=AliasChoices("HOST", "host"),
        description="Address that servers listen on.",
    )
    port: int = Field(
        default=8000,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("PORT", "port"),
        description="Port that servers listen on.",
    )
    data_dir: Path | None = Field(
        default=None, description="Folder of the embedded server and the file vault; unset: the platform's."
    )
    database: DatabaseSettings = Field(default=DatabaseSettings(), description="PostgreSQL.")
    youtube: YouTubeSettings = Field(default=YouTubeSettings(), description="The YouTube client.")
    quota: QuotaSettings = Field(default=QuotaSettings(), description="The quota ledger.")
    hunter: HunterSettings = Field(default=HunterSettings(), description="The hunter.")
    tracker: TrackerSettings = Field(default=TrackerSettings(), description="The tracker.")
    vault: VaultSettings = Field(default=VaultSettings(), description="Object storage.")
    notifier: NotifierSettings = Field(default=NotifierSettings(), description="Alerts.")
    clock: ClockSettings = Field(default=ClockSettings(), description="The clock.")
    prefect: PrefectSettings = Field(default=PrefectSettings(), description="Prefect.")
    up: UpSettings = Field(default=UpSettings(), description="Everything on one machine.")
    metrics: MetricsSettings = Field(default=MetricsSettings(), description="Metrics.")
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
        """The keys of one ring, at least one; EmptyKeyRing says what to set."""
        keys = self.key_pool[ring]
        if not keys:
            raise EmptyKeyRing(
                f"Empty KeyRing {ring!r}: set YOUTUBE_API_KEY_POOL_JSON to "
                f'{{"{ring}": [{{"key": "YOUR-KEY", "project": "YOUR-PROJECT"}}]}}, or to one list of keys '
                "for every ring. Without a key, practise on the emulator: maia demo"
            )
        return keys

    @cached_property
    def data_folder(self) -> Path:
        """Where the embedded server and the file vault live.

        Root's own home is closed to the unprivileged user that the embedded server runs as, hence /var/lib.
        """
        if self.data_dir is not None:
            return self.data_dir.expanduser().absolute()
        return Path("/var/lib/pleiades") if os.geteuid() == 0 else user_data_path("pleiades")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = NestedSecretsSettingsSource(
            file_secret_settings,
            secrets_dir=os.environ.get("PLEIADES_SECRETS_DIR", "/run/secrets"),
            secrets_dir_missing="ok",
        )
        yaml_file = InitSettingsSource(settings_cls, init_kwargs=_read_yaml(settings_cls))
        return init_settings, env_settings, dotenv_settings, secrets, yaml_file


def load(**overrides: Any) -> Settings:
    """Settings from every source; ConfigError names each place that is wrong, never a value."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        details = error.errors(include_input=False)
        raise ConfigError("\n".join(_describe(detail) for detail in details)) from None
    except SettingsError as error:
        raise ConfigError(f"{error}: lists and objects are written as JSON") from None


def _describe(detail: Any) -> str:
    group, *rest = (str(part) for part in detail["loc"]) if detail["loc"] else ("",)
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not group:
        return message
    fixed = group.upper() in _FIXED_NAMES
    name = group.upper() if fixed else "PLEIADES_" + "__".join((group, *rest)).upper()
    if detail["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    return f"{name}: {message}"


def _read_yaml(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    """The file that PLEIADES_CONFIG names, checked for names that no setting has."""
    path = os.environ.get("PLEIADES_CONFIG")
    if not path:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"PLEIADES_CONFIG: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"PLEIADES_CONFIG: {path} is not YAML{place}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"PLEIADES_CONFIG: {path} must hold `group: {{name: value}}`")
    fields = {str(key).lower(): value for key, value in content.items()}
    unknown = sorted(fields.keys() - settings_cls.model_fields.keys())
    if unknown:
        raise ConfigError(f"PLEIADES_CONFIG: {path} has no setting {', '.join(unknown)}")
    return fields


def parse_key_pool(text: str) -> KeyPool:
    """Read keys by ring, or one flat list for every ring; ConfigError names the place, never a key."""
    try:
        pool = json.loads(text, object_pairs_hook=_unique_names)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(_pool_error(place, f"not JSON ({error.msg})")) from None
    if isinstance(pool, list):
        keys = _parse_ring("", pool)
        return dict.fromkeys(RINGS, keys)
    if not isinstance(pool, dict):
        raise ConfigError(_pool_error("top", "expected an object of rings or a list of keys"))
    unknown = sorted(pool.keys() - set(RINGS))
    if unknown:
        raise ConfigError(_pool_error(unknown[0], f"no such ring; the rings are {', '.join(RINGS)}"))
    return {ring: _parse_ring(ring, pool.get(ring, [])) for ring in RINGS}


def _parse_ring(ring: str, entries: Any) -> tuple[ApiKey, ...]:
    if not isinstance(entries, list):
        raise ConfigError(_pool_error(ring, "expected a list of keys"))
    keys = tuple(_parse_key(f"{ring}[{index}]", entry) for index, entry in enumerate(entries))
    seen: set[str] = set()
    for index, key in enumerate(keys):
        if key.fingerprint in seen:
            raise ConfigError(_pool_error(f"{ring}[{index}]", "this key stands here twice"))
        seen.add(key.fingerprint)
    return keys


def _parse_key(place: str, entry: Any) -> ApiKey:
    fields = {"key": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict):
        raise ConfigError(_pool_error(place, 'expected "KEY" or {"key": "KEY", "project": "PROJECT"}'))
    try:
        key = ApiKey.model_validate(fields)
    except ValidationError as error:
        detail = error.errors(include_input=False)[0]
        where = ".".join((place, *(str(part) for part in detail["loc"])))
        raise ConfigError(_pool_error(where, detail["msg"])) from None
    if any(not "!" <= character <= "~" for character in key.key.get_secret_value()):
        raise ConfigError(_pool_error(f"{place}.key", "a key is plain ASCII without spaces"))
    return key


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(_pool_error(name, "this name stands here twice"))
    return dict(pairs)


def _pool_error(place: str, problem: str) -> str:
    return f"YOUTUBE_API_KEY_POOL_JSON, {place}: {problem}"


_FIXED_NAMES = frozenset(
    str(choice)
    for field in Settings.model_fields.values()
    if isinstance(field.validation_alias, AliasChoices)
    for choice in field.validation_alias.choices
)


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
    if field is None or group.upper() in _FIXED_NAMES:
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
