"""The terms in which health is judged: what is measured, and the limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from atlas.adapters.health import HostLoad
from atlas.maintainer_settings import HealthSettings
from maia.maintenance.findings import Finding

UNREACHABLE: Final = "unreachable"
"""The check that says that a component doesn't answer at all."""
EMERGENCY: Final = "disk_emergency"
"""The check that says that a disk is so full that space must be freed at once."""
PASSING: Final = "passing"
"""The subject of findings on several hosts that have just appeared, such as containers that do one job."""

WINDOW: Final = timedelta(hours=6)
"""How far back samples are looked at."""
MOST_SAMPLES: Final = 400
"""How many samples of a host are looked at; one a minute fills the window."""

_RELEASE: Final = 0.9
"""The part of its limit that a known figure must fall below to count as normal again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """By what is judged: the instant, the limits, and what was known to be wrong before.

    `speed` is how many times faster than real time the agents' clock runs. Limits in real time, such as the
    grace, are stretched by it.
    """

    now: datetime
    limits: HealthSettings
    known: frozenset[str] = frozenset()
    speed: float = 1.0
    burst: float = 0.1
    """The part of a day's units that may be spent ahead of pacing."""

    def too_high(self, finding: Finding, release: float = _RELEASE) -> Iterator[Finding]:
        """The finding, if its value is over its limit or, once known, not under that part of the limit."""
        assert finding.value is not None
        assert finding.limit is not None
        if finding.value >= finding.limit * (release if finding.key in self.known else 1.0):
            yield finding

    @property
    def grace(self) -> timedelta:
        return timedelta(seconds=self.limits.grace_s * self.speed)

    def allowed(self, period_s: float) -> timedelta:
        """How long it may take from one run of something to the next."""
        return timedelta(seconds=period_s * self.limits.missed_runs) + self.grace


@dataclass(frozen=True, slots=True)
class Growth:
    """The size of the database some time ago."""

    at: datetime
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWindow:
    """A host: the span over which it was heard of, and its last samples, oldest first."""

    node: str
    first_at: datetime
    last_at: datetime
    loads: Sequence[HostLoad] = ()


@dataclass(frozen=True, slots=True)
class ZoneLag:
    """How long a zone's most overdue video has been due, and the zone's interval; both in hours."""

    zone: str
    lag_h: float
    interval_h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """What waits to be done: each zone's lag, claims that nobody took over by agent, and parked topics."""

    zones: Sequence[ZoneLag] = ()
    expired: Mapping[str, int]
    parked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Something that should succeed every `period_s` by the agents' clock.

    `good_at` is when it last did; if it never did, `since` is how long it has had the chance to. `last` tells
    how it ended the last time, if that was no success, and `hosts` where it was tried of late.
    """

    name: str
    period_s: float
    good_at: datetime | None
    since: datetime | None = None
    last: str | None = None
    hosts: tuple[str, ...] = ()


class ServiceCondition(StrEnum):
    """How a unit, a container or a process of maia up is."""

    RUNNING = "running"
    STOPPED = "stopped"
    """By a person, or not begun: nothing to mend."""
    FAILED = "failed"
    UNHEALTHY = "unhealthy"
    """It runs, but fails its check."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A unit, a container or a process, and how it is; `text` says why, and `command` what to run."""

    name: str
    condition: ServiceCondition
    text: str
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether something answered that should, and what it said if not."""

    ok: bool
    text: str = ""
