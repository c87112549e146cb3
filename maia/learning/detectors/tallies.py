"""Tables of evidence in bounded memory: what was counted in all, and what was not handed out, by UTC day."""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Generic, Self, TypeVar

from maia.learning.evidence import Counts

Key = TypeVar("Key", bound=Hashable)

SLACK: Final = 1.25
"""A table may outgrow its capacity by so much before it is cut, so that cutting is rare."""

_DAYS: Final = 8
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_ROUNDING: Final = 1e-9

Day = tuple[float, float, float, datetime]
"""What was counted for and against on a day, the sum of rewards, and when it last mattered."""


@dataclass(slots=True)
class Tally:
    """The evidence for one statement; counts may be fractions, of which only whole ones are handed out."""

    pos: float = 0
    neg: float = 0
    reward: float = 0.0
    pending: dict[int, Day] = field(default_factory=dict)
    """By ordinal of the UTC day."""
    carried_pos: float = 0
    carried_neg: float = 0
    kept: bool = False
    """Whether it was handed out once. Such tallies are evicted last."""

    @property
    def support(self) -> float:
        return self.pos + self.neg

    def add(self, day: int, pos: float, neg: float, reward: float, last_seen: datetime) -> None:
        self.pos += pos
        self.neg += neg
        self.reward += reward
        known = self.pending.get(day)
        if known is None:
            self.pending[day] = (pos, neg, reward, last_seen)
            if len(self.pending) > _DAYS:
                self._fold()
        else:
            self.pending[day] = _sum(known, (pos, neg, reward, last_seen))

    def take(self) -> dict[date, Counts]:
        """What was not handed out yet. A remainder below one waits for more."""
        taken: dict[date, Counts] = {}
        for day in sorted(self.pending):
            pos, neg, reward, last_seen = self.pending[day]
            whole_pos, self.carried_pos = _whole(self.carried_pos + pos)
            whole_neg, self.carried_neg = _whole(self.carried_neg + neg)
            if whole_pos or whole_neg or reward:
                taken[date.fromordinal(day)] = Counts(whole_pos, whole_neg, reward, last_seen)
        self.pending.clear()
        self.kept = True
        return taken

    def _fold(self) -> None:
        """Count the earliest pending day with the next one: memory is bounded, and nothing is lost."""
        first, second = sorted(self.pending)[:2]
        self.pending[second] = _sum(self.pending.pop(first), self.pending[second])


class Tallies(Generic[Key]):
    """Tallies of the statements with the most support.

    `trim` cuts the table back to its capacity, as Space-Saving (Metwally et al., 2005) does one entry at a
    time. What is evicted and comes back starts at zero, so evidence is never overstated: a count is too small
    by at most `error`.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self.error: float = 0
        self._tallies: dict[Key, Tally] = {}
        self._gained: dict[Key, None] = {}
        """Those that gained something since `take_gained`."""

    def __len__(self) -> int:
        return len(self._tallies)

    def __contains__(self, key: object) -> bool:
        return key in self._tallies

    def __iter__(self) -> Iterator[Key]:
        return iter(self._tallies)

    def get(self, key: Key) -> Tally | None:
        return self._tallies.get(key)

    def kept(self, key: Key) -> bool:
        """Whether evidence was handed out for it before."""
        tally = self._tallies.get(key)
        return tally is not None and tally.kept

    def items(self) -> ItemsView[Key, Tally]:
        return self._tallies.items()

    def add(
        self, key: Key, day: int, pos: float, neg: float, last_seen: datetime, reward: float = 0.0
    ) -> Tally:
        """Count for a key on a day, given by its ordinal."""
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        self._gained[key] = None
        tally.add(day, pos, neg, reward, last_seen)
        return tally

    def take(self, keys: Iterable[Key]) -> dict[Key, dict[date, Counts]]:
        """What these gained since they were last taken, by UTC day; nothing for those that gained nothing."""
        taken: dict[Key, dict[date, Counts]] = {}
        for key in keys:
            tally = self._tallies.get(key)
            if tally is not None and tally.pending and (days := tally.take()):
                taken[key] = days
        return taken

    def take_gained(
        self, accepted: Mapping[Key, None], newly: Iterable[Key]
    ) -> dict[Key, dict[date, Counts]]:
        """`take(accepted)`, of which those that are not new were taken whenever they gained something.

        Most gain nothing from one batch to the next.
        """
        # In an order that doesn't depend on whether this was restored meanwhile.
        gained = sorted((key for key in self._gained if key in accepted), key=repr)
        self._gained.clear()
        return self.take(dict.fromkeys([*gained, *newly]))

    def discard(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._tallies.pop(key, None)
            self._gained.pop(key, None)

    def trim(self) -> list[Key]:
        """Evict the least supported if there are too many, and say which."""
        if len(self._tallies) <= self.capacity * SLACK:
            return []
        tallies = self._tallies
        ranked = sorted(tallies, key=lambda key: (tallies[key].kept, tallies[key].support))
        evicted = ranked[: len(tallies) - self.capacity]
        self.error = max(self.error, tallies[evicted[-1]].support)
        self.discard(evicted)
        return evicted

    def content(self) -> list[Any]:
        """Everything as lists, for `maia.learning.states`."""
        return [self.capacity, self.error, [[key, *_packed(tally)] for key, tally in self._tallies.items()]]

    @classmethod
    def from_content(cls, content: list[Any]) -> Self:
        capacity, error, rows = content
        made = cls(capacity)
        made.error = error
        made._tallies = {frozen(key): _unpacked(rest) for key, *rest in rows}
        made._gained = dict.fromkeys(key for key, tally in made._tallies.items() if tally.pending)
        return made


def frozen(value: Any) -> Any:
    """Lists as tuples, all the way down: msgpack knows no tuples."""
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value


@lru_cache(maxsize=4096)
def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly. Remembered, as a state has the same few instants very often."""
    return (at - _EPOCH) // _MICROSECOND


def instant(micros_: int) -> datetime:
    """The instant of so many microseconds since 1970."""
    return _EPOCH + micros_ * _MICROSECOND


def copied(pending: Mapping[int, Day]) -> list[list[Any]]:
    """Pending days as lists."""
    return [[day, pos, neg, reward, micros(at)] for day, (pos, neg, reward, at) in pending.items()]


def _packed(tally: Tally) -> list[Any]:
    return [
        tally.pos, tally.neg, tally.reward, copied(tally.pending),
        tally.carried_pos, tally.carried_neg, tally.kept,
    ]  # fmt: skip


def _unpacked(row: list[Any]) -> Tally:
    pos, neg, reward, pending, carried_pos, carried_neg, kept = row
    days = {day: (up, down, gain, instant(at)) for day, up, down, gain, at in pending}
    return Tally(pos, neg, reward, days, carried_pos, carried_neg, kept)


def _sum(one: Day, other: Day) -> Day:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], max(one[3], other[3])


def _whole(count: float) -> tuple[int, float]:
    whole = int(count + _ROUNDING)
    return whole, max(0, count - whole)
