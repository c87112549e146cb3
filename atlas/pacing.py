"""How much of a day's quota a ring may have spent by an instant: exact arithmetic over the Pacific day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction

from atlas.clock import next_reset, pacific_day, pacific_midnight
from atlas.config import Bucket, QuotaSettings, RingName

LAST_CALL = timedelta(minutes=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a ring may spend of a project's bucket in a day, and how early.

    `limit` is the project's, `ring_limit` the ring's share of it less the reserve. Pace admits
    ring_limit × min(1, fraction of the day + burst), in whole units; a `burst` of None is no pace. It has
    admitted all of them a minute before the day ends, lest the last one come due when the day is over.
    """

    limit: int
    ring_limit: int
    burst: Fraction | None

    @classmethod
    def of(cls, quota: QuotaSettings, project: str, ring: RingName, bucket: Bucket) -> Allowance:
        limit: int = getattr(quota.projects.get(project, quota.limits), bucket)
        share = math.floor(limit * _exact(getattr(getattr(quota.shares, ring), bucket)))
        ring_limit = share - math.ceil(share * _exact(quota.reserve))
        return cls(limit, ring_limit, _exact(quota.burst) if quota.pacing else None)

    def at(self, instant: datetime) -> int:
        """Units that may have been spent by `instant` since its Pacific day began."""
        if self.burst is None:
            return self.ring_limit
        start, end = pacific_midnight(pacific_day(instant)), next_reset(instant)
        if end - instant <= LAST_CALL:
            return self.ring_limit
        passed = Fraction((instant - start) // _MICROSECOND, (end - start) // _MICROSECOND)
        return math.floor(self.ring_limit * min(Fraction(1), passed + self.burst))

    def admits(self, units: int, day: date) -> datetime:
        """The first instant of `day` by which `units`, at most ring_limit, may have been spent."""
        start, end = pacific_midnight(day), pacific_midnight(day + timedelta(days=1))
        if self.burst is None:
            return start
        fraction = max(Fraction(0), Fraction(units, self.ring_limit) - self.burst)
        wait = math.ceil(fraction * ((end - start) // _MICROSECOND)) * _MICROSECOND
        return min(start + wait, end - LAST_CALL)

    def opens(self, units: int, *, spent: int, left: int, today: date, ready: datetime) -> datetime | None:
        """The first instant from `ready` on with room for `units`, None if no day ever has.

        The ring has `spent` that much `today` and has that much `left`.
        """
        if units > self.ring_limit:
            return None
        day = pacific_day(ready)
        if day == today and units <= left:
            return max(ready, self.admits(spent + units, day))
        if day == today:
            day += timedelta(days=1)
        return max(ready, self.admits(units, day))


def _exact(fraction: float) -> Fraction:
    """The number as it was written: 0.29 of 100 is 29, which floating point puts at 28.999…"""
    return Fraction(str(fraction))
