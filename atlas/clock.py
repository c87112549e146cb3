"""Clocks that are passed to agents, so that time can be simulated; and the Pacific day that quotas follow."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

PACIFIC = ZoneInfo("America/Los_Angeles")


class Clock(Protocol):
    """Returns the current instant, aware and in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class VirtualClock:
    """A clock that read `start` at the real instant `anchor` and runs `speed` times as fast.

    Processes that share the three values share the clock.
    """

    def __init__(self, start: datetime, anchor: datetime, speed: float = 1.0) -> None:
        self.start, self.anchor, self.speed = start.astimezone(UTC), anchor.astimezone(UTC), speed

    def now(self) -> datetime:
        return self.start + (datetime.now(UTC) - self.anchor) * self.speed


class FixedClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, instant: datetime) -> None:
        self.instant = instant.astimezone(UTC)

    def now(self) -> datetime:
        return self.instant

    def advance(self, step: timedelta) -> None:
        self.instant += step


def pacific_day(instant: datetime) -> date:
    """The calendar day in Los Angeles, by which YouTube counts quota."""
    return instant.astimezone(PACIFIC).date()


def pacific_midnight(day: date) -> datetime:
    """The instant, in UTC, at which `day` begins in Los Angeles."""
    return datetime.combine(day, time(), PACIFIC).astimezone(UTC)


def next_reset(instant: datetime) -> datetime:
    """The instant, in UTC, at which every bucket refills: the next Pacific midnight."""
    return pacific_midnight(pacific_day(instant) + timedelta(days=1))
