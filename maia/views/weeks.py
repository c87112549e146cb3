"""ISO weeks, Monday to Sunday, in a time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Self
from zoneinfo import ZoneInfo

_WEEK: Final = re.compile(r"(\d{4})-?W(\d{2})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Week:
    """An ISO week; the first one of a year is the one with its first Thursday."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a week such as 2026-W48; ValueError if there is none of that name."""
        match = _WEEK.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no week: write for example 2026-W48")
        year, number = int(match[1]), int(match[2])
        try:
            date.fromisocalendar(year, number, 1)
            date.fromisocalendar(year, number, 7) + timedelta(days=1)
        except (ValueError, OverflowError):
            raise ValueError(f"there is no week {text}: {year} has no week {number}") from None
        return cls(year, number)

    @classmethod
    def of(cls, instant: datetime, time_zone: str) -> Self:
        """The week that an instant is in."""
        year, number, _ = instant.astimezone(ZoneInfo(time_zone)).date().isocalendar()
        return cls(year, number)

    @property
    def monday(self) -> date:
        return date.fromisocalendar(self.year, self.number, 1)

    @property
    def days(self) -> tuple[date, ...]:
        """Its days, Monday first."""
        return tuple(self.monday + timedelta(days=day) for day in range(7))

    @property
    def before(self) -> Self:
        """The week before this one."""
        year, number, _ = (self.monday - timedelta(days=1)).isocalendar()
        return type(self)(year, number)

    def span(self, time_zone: str) -> tuple[datetime, datetime]:
        """Its first instant, and the first one after it, in UTC: 167 to 169 hours where clocks change."""
        return _midnight(self.monday, time_zone), _midnight(self.monday + timedelta(days=7), time_zone)

    def __str__(self) -> str:
        return f"{self.year:04}-W{self.number:02}"


def _midnight(day: date, time_zone: str) -> datetime:
    return datetime.combine(day, time(), ZoneInfo(time_zone)).astimezone(UTC)
