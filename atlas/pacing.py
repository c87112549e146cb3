"""Quota pacing: how much of the day's quota a ring may have spent by an instant, in exact arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Final

from atlas.clock import next_reset, pacific_day, pacific_midnight
from atlas.config import RINGS, Bucket, QuotaSettings, RingName

LENDER: Final[RingName] = "archeology"
"""The ring whose share the other rings may spend until it asks for units itself."""
LAST_CALL = timedelta(minutes=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a ring may spend of a project's bucket in a day, and how early.

    `limit` is the project's limit; `ring_limit` is the ring's share of it, less the reserve, plus any loan.
    Pacing allows ring_limit × min(1, fraction of the day + burst), in whole units; a `burst` of None turns it
    off. One minute before the day ends everything is allowed, so that the last unit isn't allowed too late.
    """

    limit: int
    ring_limit: int
    burst: Fraction | None

    @classmethod
    def of(cls, quota: QuotaSettings, project: str, ring: RingName, bucket: Bucket) -> Allowance:
        limit: int = getattr(quota.projects.get(project, quota.limits), bucket)
        share = math.floor(limit * _exact(getattr(getattr(quota.shares, ring), bucket)))
        ring_limit = share - math.ceil(share * _exact(getattr(quota.reserve, bucket)))
        return cls(limit, ring_limit, _exact(quota.burst) if quota.pacing else None)

    def with_loan(self, units: int) -> Allowance:
        """The same allowance with `units` more per day, or fewer if negative."""
        return replace(self, ring_limit=self.ring_limit + units)

    def at(self, instant: datetime) -> int:
        """Units that may have been spent by `instant` since its Pacific day began."""
        if self.burst is None:
            return self.ring_limit
        start, end = pacific_midnight(pacific_day(instant)), next_reset(instant)
        if end - instant <= LAST_CALL:
            return self.ring_limit
        passed = Fraction((instant - start) // _MICROSECOND, (end - start) // _MICROSECOND)
        return math.floor(self.ring_limit * min(Fraction(1), passed + self.burst))

    def admitted_at(self, units: int, day: date) -> datetime:
        """The first instant of `day` at which `units`, at most ring_limit, may have been spent."""
        start, end = pacific_midnight(day), pacific_midnight(day + timedelta(days=1))
        if self.burst is None:
            return start
        fraction = max(Fraction(0), Fraction(units, self.ring_limit) - self.burst)
        wait = math.ceil(fraction * ((end - start) // _MICROSECOND)) * _MICROSECOND
        return min(start + wait, end - LAST_CALL)

    def opens_at(self, units: int, *, spent: int, left: int, today: date, ready: datetime) -> datetime | None:
        """The first instant from `ready` on at which `units` more may be spent; None if no day allows it.

        `spent` and `left` are the ring's units `today`.
        """
        if units > self.ring_limit:
            return None
        day = pacific_day(ready)
        if day == today and units <= left:
            return max(ready, self.admitted_at(spent + units, day))
        if day == today:
            day += timedelta(days=1)
        return max(ready, self.admitted_at(units, day))


def loan(quota: QuotaSettings, project: str, ring: RingName, bucket: Bucket) -> int:
    """Units per day that LENDER lends to the ring; for LENDER itself, minus all that it lends.

    The other rings divide its limit in proportion to their shares.
    """
    if ring == LENDER:
        return -sum(loan(quota, project, name, bucket) for name in RINGS if name != LENDER)
    shares = {name: _exact(getattr(getattr(quota.shares, name), bucket)) for name in RINGS if name != LENDER}
    lent = Allowance.of(quota, project, LENDER, bucket).ring_limit
    return math.floor(lent * shares[ring] / sum(shares.values())) if shares[ring] else 0


def _exact(fraction: float) -> Fraction:
    """The number as it was written, because in floating point 0.29 of 100 is 28.999…"""
    return Fraction(str(fraction))
