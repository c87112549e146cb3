"""The waiting view: how fast each ring spends its units, what waits, why, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from atlas.clock import next_reset, pacific_day, pacific_midnight
from atlas.pacing import Allowance

if TYPE_CHECKING:
    from atlas.config import Bucket, QuotaSettings, RingName
    from maia.views.clock import ZoneRow
    from maia.views.ledger import RingQuota
    from maia.views.runs import AgentRuns
    from maia.views.status import Status

_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a ring spends a bucket today.

    `per_hour` is units an hour since the Pacific day began. `used_up_at` is when its share ends at that rate,
    None if it lasts the day. `opens_at` is when the next unit may be spent, None if one may be spent now.
    """

    ring: str
    bucket: str
    project: str
    per_hour: float
    used_up_at: datetime | None
    opens_at: datetime | None
    held_by: str | None
    """What holds the next unit back; None if nothing does."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that waits: how many, why, and until when (None: nobody can say)."""

    what: str
    count: int
    why: str
    until: datetime | None


def paces(lines: Iterable[RingQuota], quota: QuotaSettings, now: datetime) -> tuple[Pace, ...]:
    """The pace of each line of the ledger, in the same order."""
    return tuple(_pace(line, quota, now) for line in lines)


def waiting(status: Status, paces: Sequence[Pace], runs: Iterable[AgentRuns]) -> tuple[Waiting, ...]:
    """What waits now, as far as it is counted."""
    next_runs = {each.agent: each.next_at for each in runs}
    found = [
        *_topics(status, _pace_of(paces, "hunting", "search"), next_runs),
        *_videos(status.tracking.zones, _pace_of(paces, "tracking", "stats"), next_runs),
    ]
    feeds, stored = status.feeds, status.vault.waiting
    if feeds.paused_until is not None:
        found.append(
            Waiting("looks at feeds", 1, f"YouTube refused: {feeds.reason or '?'}", feeds.paused_until)
        )
    if stored:
        found.append(Waiting("raw answers to be stored", stored, "the vault did not take them yet", None))
    return tuple(each for each in found if each.count > 0)


def _pace(line: RingQuota, quota: QuotaSettings, now: datetime) -> Pace:
    hours = (now - pacific_midnight(pacific_day(now))) / _HOUR
    per_hour = line.used / hours if hours > 0 else 0.0
    ends = now + timedelta(hours=line.left / per_hour) if per_hour > 0 and line.left > 0 else None
    opens_at, held_by = _held(line, quota, now)
    return Pace(
        ring=line.ring,
        bucket=line.bucket,
        project=line.project,
        per_hour=per_hour,
        used_up_at=ends if ends is not None and ends < next_reset(now) else None,
        opens_at=opens_at,
        held_by=held_by,
    )


def _held(line: RingQuota, quota: QuotaSettings, now: datetime) -> tuple[datetime | None, str | None]:
    """Until when the next unit is held back, and by what."""
    if line.closed_until is not None and line.closed_until > now:
        return line.closed_until, line.reason or "closed"
    if line.left <= 0:
        return next_reset(now), "the day's share is used up"
    if line.free_now > 0:
        return None, None
    ring, bucket = cast("RingName", line.ring), cast("Bucket", line.bucket)
    allowance = replace(Allowance.of(quota, line.project, ring, bucket), ring_limit=line.ring_limit)
    spent = min(line.used + line.reserved + 1, line.ring_limit)
    return allowance.admitted_at(spent, pacific_day(now)), "the pace of the day"


def _pace_of(paces: Iterable[Pace], ring: str, bucket: str) -> Pace | None:
    """The pace of the project that opens first."""
    found = [each for each in paces if (each.ring, each.bucket) == (ring, bucket)]
    held = [each for each in found if each.opens_at is not None]
    return next((each for each in found if each.opens_at is None), None) or min(
        held, key=_opening, default=None
    )


def _opening(pace: Pace) -> datetime:
    assert pace.opens_at is not None
    return pace.opens_at


def _cause(pace: Pace | None, next_at: datetime | None, whose: str) -> tuple[str, datetime | None]:
    """Why an agent's work waits."""
    if pace is None:
        return f"no key is set for the {whose}", None
    if pace.held_by is not None:
        return pace.held_by, pace.opens_at
    if next_at is None:
        return f"nothing is known to run the {whose}", None
    return f"the {whose}'s next run", next_at


def _topics(status: Status, pace: Pace | None, next_runs: Mapping[str, datetime | None]) -> Iterator[Waiting]:
    queue = status.queue
    why, until = _cause(pace, next_runs.get("hunter"), "hunter")
    yield Waiting("topics to be searched", queue.active - queue.leased - queue.waiting, why, until)
    yield Waiting("topics that failed", queue.waiting, "each is tried again after a pause", None)
    yield Waiting("topics that rest", queue.cooling, "they were searched lately: little is new yet", None)


def _videos(
    zones: Iterable[ZoneRow], pace: Pace | None, next_runs: Mapping[str, datetime | None]
) -> Iterator[Waiting]:
    why, until = _cause(pace, next_runs.get("tracker"), "tracker")
    for zone in zones:
        slowed = (
            f"; intervals are ×{zone.slowed:.2g}, as the quota lacks units" if zone.slowed > 1.005 else ""
        )
        yield Waiting(
            f"{zone.zone or 'other'} videos due for a sample", zone.due - zone.leased, f"{why}{slowed}", until
        )
