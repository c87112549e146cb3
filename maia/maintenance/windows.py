"""Spans of the day by the wall clock of a time zone, such as 22:00-07:00: maintenance windows, quiet hours.

An instant lies in a span if a clock on the wall shows a time from its beginning until just before its end. So
a span that a clock change skips doesn't happen that day, and an hour that comes twice counts both times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final, Self
from zoneinfo import ZoneInfo

_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)
_LOOKED_AHEAD: Final = 3 * _DAY
"""Every span begins within that: a clock change can take one of its days away."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of each day. It may cross midnight; if both ends are equal, it is the whole day."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """A span written as HH:MM-HH:MM; ValueError if it is none."""
        start, _, end = text.partition("-")
        return cls(time.fromisoformat(start), time.fromisoformat(end))

    def __contains__(self, at: time) -> bool:
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


@dataclass(frozen=True, slots=True)
class Windows:
    """Some spans of the day in a time zone. Without any, no instant lies within."""

    spans: tuple[Span, ...]
    zone: ZoneInfo

    @classmethod
    def of(cls, spans: Sequence[str], time_zone: str) -> Self:
        """The windows as the settings name them, such as ("01:30-06:00",) in Europe/Berlin."""
        return cls(tuple(map(Span.parse, spans)), ZoneInfo(time_zone))

    def __contains__(self, instant: datetime) -> bool:
        at = instant.astimezone(self.zone).time()
        return any(at in span for span in self.spans)

    def next_within(self, instant: datetime) -> datetime | None:
        """The first instant from this one on that lies in a span; None without spans."""
        if not self.spans:
            return None
        if instant in self:
            return instant
        local = instant.astimezone(self.zone)
        wait = min(
            (_since_midnight(span.start) - _since_midnight(local.time())) % _DAY for span in self.spans
        )
        beginning = (instant.astimezone(UTC) + wait).astimezone(self.zone)
        if beginning.utcoffset() == local.utcoffset():
            return beginning.astimezone(UTC)
        return self._search(instant)

    def _search(self, instant: datetime) -> datetime:
        """The next instant within, minute by minute, as clocks are changed until then."""
        at = instant.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        while at not in self:
            at += _MINUTE
            if at - instant > _LOOKED_AHEAD:
                raise ValueError(f"no span begins within {_LOOKED_AHEAD.days} days in {self.zone}")
        return at

    def __str__(self) -> str:
        if not self.spans:
            return "no maintenance window"
        spans = ", ".join(f"{span.start:%H:%M}-{span.end:%H:%M}" for span in self.spans)
        return f"{spans} {self.zone}"


def _since_midnight(at: time) -> timedelta:
    return timedelta(hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond)
