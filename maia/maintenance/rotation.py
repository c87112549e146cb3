"""Which backups to keep: some daily, weekly and monthly ones, as in a grandfather-father-son scheme.

Of each day, week and month that has backups, the newest counts, for as many of the last ones as are to be
kept. Days without a backup don't count, so that a machine that was off for a month loses nothing. Selecting
after every backup keeps the same as selecting once among all: what is the newest of its period stays so.

A backup from the future, named by a clock that was ahead, counts for no period, or it would be the newest of
one for ever. It stays until there are enough others of late: only then is it safe to say that this clock is
right, and that newer backups have taken its place. One of the next days waits for its own day, as a clock
that is a little behind also finds enough others, those of the days before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from atlas.backups.manifest import is_from_future


class Tier(StrEnum):
    """Why a backup is kept."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    FUTURE = "from the future"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How many backups of each tier are kept. Days, weeks (from Monday) and months are those of the zone."""

    daily: int
    weekly: int
    monthly: int
    zone: ZoneInfo

    def kept(self, backups: Mapping[str, datetime], now: datetime) -> dict[str, tuple[Tier, ...]]:
        """The backups to keep, by name, each with its tiers; `backups` has the instant of every good one.

        The newest is always among them. Those from the future go once there are backups of as many days as
        are kept daily, within twice as many days: on some the machine may have been off. Those of as many
        days ahead stay.
        """
        future = {name for name, at in backups.items() if is_from_future(at, now)}
        kept = self._of_periods({name: at for name, at in backups.items() if name not in future})
        since = now - timedelta(days=2 * self.daily)
        days = {backups[name].astimezone(self.zone).date() for name in kept if backups[name] > since}
        if len(days) >= self.daily:
            future = {name for name in future if backups[name] <= now + timedelta(days=self.daily)}
        return kept | dict.fromkeys(future, (Tier.FUTURE,))

    def _of_periods(self, backups: Mapping[str, datetime]) -> dict[str, tuple[Tier, ...]]:
        newest_first = sorted(backups.items(), key=lambda item: (item[1], item[0]), reverse=True)
        local = [(name, at.astimezone(self.zone)) for name, at in newest_first]
        kept: dict[str, tuple[Tier, ...]] = {name: () for name, _ in newest_first[:1]}
        periods: tuple[tuple[Tier, int, Callable[[datetime], Hashable]], ...] = (
            (Tier.DAILY, self.daily, lambda at: at.date()),
            (Tier.WEEKLY, self.weekly, lambda at: at.isocalendar()[:2]),
            (Tier.MONTHLY, self.monthly, lambda at: (at.year, at.month)),
        )
        for tier, count, period in periods:
            for name in _newest_of_each(local, period, count):
                kept[name] = (*kept.get(name, ()), tier)
        return kept

    def superfluous(self, backups: Mapping[str, datetime], now: datetime) -> list[str]:
        """The good backups that need not be kept, the oldest first."""
        kept = self.kept(backups, now)
        return sorted(backups.keys() - kept.keys(), key=lambda name: (backups[name], name))


def _newest_of_each(
    newest_first: Iterable[tuple[str, datetime]], period: Callable[[datetime], Hashable], count: int
) -> list[str]:
    """The newest of each of the last `count` periods that have any."""
    found: dict[Hashable, str] = {}
    for name, at in newest_first:
        if len(found) == count:
            break
        found.setdefault(period(at), name)
    return list(found.values())
