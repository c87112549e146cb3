"""A report: what happened in a week, as plain data that HTML, Markdown and tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final

from maia.views.words import plain

VERSION: Final = 1
"""Rises when reports that were stored before can no longer be read."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a week amounts to: `early` videos were found within a day of publication, `growing` ones grew."""

    found: int = 0
    new: int = 0
    early: int = 0
    growing: int = 0
    samples: int = 0
    breakouts: int = 0
    units: int = 0
    cycles: int = 0


@dataclass(frozen=True, slots=True)
class ArmOfWeek:
    """What an arm of discovery brought; `new_by_day` begins on Monday, by Pacific days.

    `units` are those of its own bucket and of metadata; `growing_per_unit` is None where it cost none.
    """

    arm: str
    asks: int
    units: float
    found: int
    new: int
    early: int
    judged: int
    growing: int
    growing_per_unit: float | None
    new_by_day: tuple[int, ...]
    early_by_day: tuple[int, ...]
    growing_by_day: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Riser:
    """A video that gained most. `views_per_hour` is the mean between its first and last count of the week.

    `growth` holds views per hour in equal parts of the week, None where nothing was measured. Title and
    channel are None once they must no longer be kept.
    """

    rank: int
    id: str
    title: str | None
    channel_id: str | None
    channel_title: str | None
    published_at: datetime | None
    url: str
    views: int | None
    gained: int
    views_per_hour: float
    peak_per_hour: float | None
    growth: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class QuotaOfWeek:
    """A ring's units of a bucket by Pacific day, Monday first; `limit` is the ring's for a day by now."""

    bucket: str
    ring: str
    used: int
    limit: int | None
    used_by_day: tuple[int, ...]
    share: float | None
    """Of what the ring could have spent in the days that there were."""
    reason: str | None
    """Why the bucket was closed for a while."""


@dataclass(frozen=True, slots=True)
class ZoneOfWeek:
    """The videos of a zone that waited to be sampled, by day: mean and most, None where nobody looked."""

    zone: str
    mean: float
    most: int
    mean_by_day: tuple[float | None, ...]
    most_by_day: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class AgentOfWeek:
    """How an agent's cycles ended; good ones did their work, or had none, or were out of quota."""

    agent: str
    cycles: int
    good: int
    failed: int
    seconds: float
    """The median duration of a cycle of the most frequent outcome."""
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class HostFigures:
    """A host's mean and highest load, in percent."""

    node: str
    cpu_percent: float | None
    cpu_most: float | None
    memory_percent: float | None
    memory_most: float | None
    disk_most: float | None
    disk_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """A component's score in [0, 1]: the mean and the lowest of the week."""

    component: str
    mean: float
    lowest: float
    by_day: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class IncidentOfWeek:
    """Something that was wrong for `seconds` of the week; `ended_at` is None if it was not over by then."""

    key: str
    severity: str
    text: str
    began_at: datetime
    ended_at: datetime | None
    seconds: float
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class LearntPattern:
    """A pattern with the confidence in it: the lower end of a 90 % credible interval."""

    id: str
    type: str
    statement: str
    confidence: float
    support: int


@dataclass(frozen=True, slots=True)
class LearntOfWeek:
    """What was learnt: how many patterns are known, new and forgotten, and the foremost of each."""

    known: int
    new: int
    forgotten: int
    newest: tuple[LearntPattern, ...]
    strongest: tuple[LearntPattern, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActionOfWeek:
    """An action of the maintainer, with its result."""

    at: datetime
    kind: str
    target: str
    state: str
    text: str


@dataclass(frozen=True, slots=True)
class DutyOfWeek:
    """How often one of the maintainer's duties ran and failed, and what its last run said."""

    duty: str
    runs: int
    failed: int
    summary: str


@dataclass(frozen=True, slots=True)
class OpenSuggestion:
    """A suggestion that nobody has closed, and the command that acts on it."""

    id: int
    category: str
    text: str
    command: str | None
    made_at: datetime
    author: str | None


@dataclass(frozen=True, slots=True)
class ForecastOfWeek:
    """How good the forecasts were that could be checked in the week, by horizon.

    `error` is the median absolute difference of log(1 + views), `better` the share by which that is below
    damped velocity's, and `coverage` the share of the 80 % intervals that held.
    """

    horizon: str
    forecasts: int
    error: float
    better: float | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """A week. `before` is the week before it, and `is_complete` says whether the week was over."""

    week: str
    begins_at: datetime
    ends_at: datetime
    made_at: datetime
    time_zone: str
    is_complete: bool
    attribution: str
    days: tuple[date, ...]
    totals: Totals
    before: Totals
    arms: tuple[ArmOfWeek, ...] = ()
    risers: tuple[Riser, ...] = ()
    quota: tuple[QuotaOfWeek, ...] = ()
    zones: tuple[ZoneOfWeek, ...] = ()
    agents: tuple[AgentOfWeek, ...] = ()
    hosts: tuple[HostFigures, ...] = ()
    health: tuple[ComponentHealth, ...] = ()
    incidents: tuple[IncidentOfWeek, ...] = ()
    learnt: LearntOfWeek | None = None
    actions: tuple[ActionOfWeek, ...] = ()
    """The last actions, oldest first."""
    more_actions: int = 0
    """How many more there were, before these."""
    duties: tuple[DutyOfWeek, ...] = ()
    suggestions: tuple[OpenSuggestion, ...] = ()
    forecasts: tuple[ForecastOfWeek, ...] = ()
    version: int = VERSION

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in the week."""
        work = replace(self.totals, cycles=0)
        return work == Totals() and not (self.risers or self.incidents or self.actions)

    @property
    def has_names(self) -> bool:
        """Whether it still names videos."""
        return any(each.title or each.channel_title or each.channel_id for each in self.risers)

    def without_names(self, ids: Iterable[str] | None = None) -> Report:
        """The report without titles, channels, dates and counts that YouTube told; of some videos, or all."""
        chosen = None if ids is None else set(ids)
        risers = tuple(
            _unnamed(each) if chosen is None or each.id in chosen else each for each in self.risers
        )
        return replace(self, risers=risers)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        values: dict[str, Any] = plain(self)
        return values


def _unnamed(riser: Riser) -> Riser:
    return replace(riser, title=None, channel_id=None, channel_title=None, published_at=None, views=None)
