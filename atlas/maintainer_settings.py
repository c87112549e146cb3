"""The maintainer's settings: what counts as healthy, what may be changed, and what is kept for how long."""

from __future__ import annotations

import re
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, field_validator, model_validator

from atlas.setting_types import Fraction, Group, OptionalPath, SecretHttpUrl, Texts

ACTIONS: Final = (
    "backup", "cleanup", "partitions", "vacuum", "reindex", "restart", "emergency", "update", "packages",
)  # fmt: skip
"""The kinds of actions that a maintainer can be allowed to take."""

_UNIT: Final = re.compile(r"[A-Za-z0-9:_.][A-Za-z0-9:_.@-]{0,200}\.(service|timer|socket|target|path|mount)")
_CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")
_SPAN: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


def _spans(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not _SPAN.fullmatch(text):
            raise ValueError(f"{text!r} is no span of the day: write for example 02:00-05:30")
    return texts


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (LookupError, OSError, ValueError):
        raise ValueError(f"there is no time zone {name!r}: write a name such as Europe/Berlin") from None
    return name


def _units(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _UNIT.fullmatch(name):
            raise ValueError(f"{name!r} is no unit: write its full name, such as pleiades.service")
    return names


def _containers(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _CONTAINER.fullmatch(name):
            raise ValueError(f"{name!r} is no container's name, such as pleiades-agents-1")
    return names


Spans = Annotated[Texts, AfterValidator(_spans)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Percent = Annotated[float, Field(gt=0, le=100)]
# Longer spans than a year, multiplied by each other, are none that can be reckoned with.
Seconds = Annotated[float, Field(le=366 * 86_400)]
Hours = Annotated[float, Field(le=366 * 24)]
Multiple = Annotated[float, Field(le=10_000)]


class HealthSettings(Group):
    """From which figures on something counts as unhealthy."""

    cpu_percent: Percent = Field(default=80, description="Processor use of a host that counts as too high.")
    memory_percent: Percent = Field(default=85, description="Memory use of a host that counts as too high.")
    disk_percent: Percent = Field(default=90, description="Disk use of a host that counts as too high.")
    emergency_disk_percent: Percent = Field(
        default=95, description="Disk use over which space is freed at once, if that is allowed."
    )
    margin_percent: float = Field(
        default=5,
        ge=0,
        le=50,
        description="How many points below its limit a figure must fall to count as healthy again.",
    )
    needed: int = Field(
        default=3, ge=1, le=64, description="How many of the last `window` samples decide; with fewer, none."
    )
    window: int = Field(default=5, ge=1, le=64, description="How many samples are looked at.")
    connections_percent: Percent = Field(
        default=80, description="Use of PostgreSQL's connections that counts as too high."
    )
    long_transaction_s: Seconds = Field(
        default=900, gt=0, description="Age of a transaction, in seconds, that counts as too old."
    )
    dead_rows: Fraction = Field(
        default=0.3, description="Fraction of dead rows in a large table that counts as too high."
    )
    growth_per_day: Multiple = Field(
        default=0.25,
        gt=0,
        description="Growth of the database within a day that counts as unusual, relative.",
    )
    lag_intervals: Multiple = Field(
        default=3, gt=0, description="Lag of a zone, in its own intervals, that counts as too long."
    )
    expired_leases: int = Field(
        default=100, ge=1, description="Expired leases within an hour that count as too many."
    )
    parked_topics: int = Field(default=1000, ge=1, description="Parked topics that count as too many.")
    burn: Multiple = Field(
        default=1.5,
        gt=1,
        description="Use of a bucket, as a multiple of what pacing has released, that counts as unusual.",
    )
    missed_runs: Multiple = Field(
        default=2,
        ge=1,
        description="Intervals without a good cycle after which an agent counts as silent.",
    )
    grace_s: Seconds = Field(
        default=900, ge=0, description="Seconds to wait beyond that, and beyond a host's own heartbeat."
    )
    host_interval_s: Seconds = Field(
        default=600, gt=0, description="Longest time between two heartbeats of a host."
    )
    forget_hosts_h: Hours = Field(
        default=48, gt=0, description="Hours after which a silent host counts as gone for good."
    )

    @model_validator(mode="after")
    def _window_holds_what_is_needed(self) -> HealthSettings:
        if self.needed > self.window:
            raise ValueError(f"needed ({self.needed}) must not be more than window ({self.window})")
        if self.emergency_disk_percent < self.disk_percent:
            raise ValueError("emergency_disk_percent must not be below disk_percent")
        return self

    def clear_below(self, limit_percent: float) -> float:
        """Below which percentage something counts as healthy again that was over this limit."""
        # Never so low that nothing could be healthy.
        return max(limit_percent - self.margin_percent, limit_percent / 2)


class ActionSettings(Group):
    """How often the maintainer may take actions, and when it gives up."""

    cool_down_s: Seconds = Field(
        default=600, ge=0, description="Pause before the same action is taken on the same thing again."
    )
    most_an_hour: int = Field(
        default=3, ge=1, le=60, description="Most times an hour that an action is taken on the same thing."
    )
    give_up_after: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Consecutive actions without lasting effect, after which it is left to people.",
    )
    lasting_s: Seconds = Field(
        default=3600, gt=0, description="How long all must be well after an action that had lasting effect."
    )
    host_spacing_s: Seconds = Field(
        default=300, ge=0, description="Least time between restarts on two hosts; never both at once."
    )
    units: Annotated[Texts, AfterValidator(_units)] = Field(
        default=(), description="Systemd units to restart if they fail, such as pleiades.service."
    )
    containers: Annotated[Texts, AfterValidator(_containers)] = Field(
        default=(), description="Containers to restart if their health check fails, by name."
    )
    children: bool = Field(
        default=True, description="Also end processes of maia up that run but fail their check."
    )
    timeout_s: Seconds = Field(
        default=120, gt=0, description="Longest time that one action's program may run."
    )


class RetentionSettings(Group):
    """How long things are kept, in days, and the most that one run deletes."""

    metadata_days: int = Field(
        default=30,
        ge=1,
        le=1096,
        description="Videos' metadata that were not refreshed, and raw answers in the vault; more than 30 "
        "only with YouTube's written consent.",
    )
    events_days: int = Field(default=90, ge=1, le=1096, description="The event log.")
    evidence_days: int = Field(default=90, ge=1, le=3650, description="Evidence and alarms of the learner.")
    forecasts_days: int = Field(default=30, ge=1, le=1096, description="Forecasts and their checks.")
    discovery_days: int = Field(default=365, ge=1, le=3650, description="Plans and yields of the hunter.")
    observations_days: int = Field(
        default=7, ge=1, le=1096, description="Observations sent to the service, once they are learnt."
    )
    reports_days: int = Field(default=365, ge=1, le=3650, description="Weekly reports.")
    actions_days: int = Field(default=365, ge=1, le=3650, description="Actions and incidents.")
    runs_days: int = Field(default=30, ge=1, le=1096, description="The history of runs in Prefect.")
    logs_days: int = Field(
        default=14,
        ge=1,
        le=1096,
        description="Log files in the data folder, and lines of logs that the dashboard shows.",
    )
    log_mb: int = Field(default=64, ge=1, le=65_536, description="Size in MB at which a log is rotated.")
    temporary_h: float = Field(
        default=24,
        ge=1,
        le=87_600,
        description="Hours after which our abandoned temporary files are deleted.",
    )
    rows_at_once: int = Field(
        default=10_000, ge=100, le=1_000_000, description="Rows deleted in one transaction."
    )
    run_s: Seconds = Field(
        default=600, gt=0, description="Longest time that one clean-up deletes; the next one continues."
    )


class BackupSettings(Group):
    """Copies of the database in the vault."""

    daily: int = Field(default=7, ge=1, le=366, description="Daily backups to keep.")
    weekly: int = Field(default=4, ge=0, le=520, description="Weekly backups to keep.")
    monthly: int = Field(default=12, ge=0, le=120, description="Monthly backups to keep.")
    recipient: str | None = Field(
        default=None,
        pattern="^age1[0-9a-z]{58}$",
        description="Public key (age1…) that backups are encrypted for; only its owner can restore them.",
    )
    identity_file: OptionalPath = Field(
        default=None, description="File with the secret key (AGE-SECRET-KEY-1…), to verify and restore."
    )
    level: int = Field(default=1, ge=1, le=19, description="Level of the zstandard compression.")
    part_mb: int = Field(default=64, ge=1, le=1024, description="Size of a backup's parts in MB.")
    verify: bool = Field(
        default=False, description="Verify each scheduled backup by restoring it to a throw-away server."
    )
    path: OptionalPath = Field(
        default=None, description="Folder to keep backups in instead of the vault, such as a mounted disk."
    )


class UpdateSettings(Group):
    """Where updates come from, and which are permitted."""

    constraints: OptionalPath = Field(
        default=None, description="File with the versions to bring our environment to."
    )
    wheelhouse: OptionalPath = Field(
        default=None,
        description="Folder of wheels to install from; if unset, releases on the package index are only "
        "reported.",
    )
    root: OptionalPath = Field(
        default=None,
        description="Folder of the environments, with the link `current`; if unset, there is no switch.",
    )
    keep: int = Field(default=2, ge=1, le=20, description="Environments to keep beside the current one.")
    origins: Texts = Field(
        default=("Debian-Security:*", "Debian:*-updates", "Ubuntu:*-security", "Ubuntu:*-updates"),
        description="Origins whose system packages may be updated, as shell patterns of what apt-get -s "
        "writes, such as Debian-Security:12/oldstable-security.",
    )
    block: Texts = Field(
        default=("linux-image-*", "postgresql-*"),
        description="System packages that are never updated, as shell patterns.",
    )
    timeout_s: Seconds = Field(
        default=1800, gt=0, description="Longest time that one program of an update may run, in seconds."
    )
    settle_s: Seconds = Field(
        default=120,
        gt=0,
        description="How long services may take to be well after a switch, before it is undone.",
    )


class ReportSettings(Group):
    """The weekly report."""

    risers: int = Field(default=10, ge=1, le=100, description="Fastest videos to list.")
    announce: bool = Field(default=True, description="Announce each report through the notifier.")


class AlertSettings(Group):
    """When people are told of incidents, and how often."""

    resend_s: Seconds = Field(
        default=4 * 3600, ge=60, description="Pause before an incident that lasts is announced again."
    )
    settle_s: Seconds = Field(
        default=0, ge=0, description="How long a warning must last before it is announced; errors never wait."
    )
    quiet_hours: Spans = Field(
        default=(), description="Spans of the day, such as 22:00-07:00, when only errors are announced."
    )
    recovery: bool = Field(default=True, description="Announce when an incident is over.")
    recovery_settle_s: Seconds = Field(
        default=240,
        ge=0,
        description="How long all must be well for an incident to be over; if it is back before, it lasts.",
    )
    ping_url: SecretHttpUrl | None = Field(
        default=None,
        description="URL to call after each good cycle, of a service that raises an alarm if no call comes.",
    )
    ping_timeout_s: float = Field(
        default=10, gt=0, le=120, description="Longest time for that call, which is tried three times."
    )


class MaintainerSettings(Group):
    """The maintainer: what it may do without being asked, when, and by which limits."""

    apply: Texts = Field(
        default=(),
        description="Kinds of actions that are taken without --apply, such as backup,cleanup; or all. "
        f"There are {', '.join(ACTIONS)}.",
    )
    off: Texts = Field(default=(), description="Duties to leave out, such as updates.")
    time_zone: TimeZone = Field(
        default="UTC", description="Time zone of schedules, windows and quiet hours, such as Europe/Berlin."
    )
    windows: Spans = Field(
        default=("01:30-06:00",),
        description="Spans of the day in which actions that disturb the agents may be taken.",
    )
    schedules: OptionalPath = Field(
        default=None, description="YAML file with the duties' schedules; those changed by hand win."
    )
    health: HealthSettings = Field(default=HealthSettings(), description="Limits of what is healthy.")
    actions: ActionSettings = Field(default=ActionSettings(), description="Limits of actions.")
    retention: RetentionSettings = Field(default=RetentionSettings(), description="How long things are kept.")
    backups: BackupSettings = Field(default=BackupSettings(), description="Backups.")
    updates: UpdateSettings = Field(default=UpdateSettings(), description="Updates.")
    reports: ReportSettings = Field(default=ReportSettings(), description="Reports.")
    alerts: AlertSettings = Field(default=AlertSettings(), description="Alerts.")

    @field_validator("apply")
    @classmethod
    def _actions_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in (*ACTIONS, "all"):
                raise ValueError(f"there is no action {name!r}; there are {', '.join(ACTIONS)}, and all")
        return names

    def allows(self, action: str) -> bool:
        """Whether an action of this kind may be taken without being asked for."""
        return action in self.apply or "all" in self.apply
