"""Context switches: from which topic or source an agent moves to which, how often, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.grouping import Recent, by_session, text_of
from maia.learning.detectors.successions import FourCounts, Key, Successions
from maia.learning.detectors.wording import about, coarse, of_ten, who
from maia.learning.observations import Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

TOPIC_FIELDS: Final = ("topic", "source")
"""Fields that say what an action was about; the first that is there counts."""


class Last(NamedTuple):
    """A session's last observation that was about something."""

    field: str
    topic: str
    duration_s: float | None


class ContextSwitches(ObservationDetector):
    """Counts what each topic is followed by within a session, itself included.

    A switch is reported when it is more frequent than from other topics. Its reward is by how many seconds
    the step before took longer than the one after; 0 where durations are not known.
    """

    name: ClassVar[str] = "context_switches"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.CONTEXT_SWITCH})

    def __init__(self, capacity: int = 10_000, sessions: int = 5000, least_count: int = 20) -> None:
        self._successions = Successions(capacity, least_count=least_count)
        self._sessions: Recent[Last] = Recent(sessions)

    def observe(self, batch: Sequence[Observation]) -> None:
        steps: dict[int, dict[tuple[str, str, str, str], list[float]]] = {}
        last_seen: dict[int, datetime] = {}
        for key, members in by_session(batch).items():
            last = self._sessions.pop(key)
            for each in members:
                now = _last(each)
                if now is None:
                    continue
                if last is not None and last.field == now.field:
                    day = each.at.toordinal()
                    step = (key[0], now.field, last.topic, now.topic)
                    cell = steps.setdefault(day, {}).setdefault(step, [0, 0.0])
                    cell[0] += 1
                    cell[1] += _saved_s(last, now)
                    last_seen[day] = max(each.at, last_seen.get(day, each.at))
                last = now
            if last is not None:
                self._sessions.put(key, last)
        self._sessions.trim()
        for day in sorted(steps):
            self._count(day, last_seen[day], steps[day])
        self._successions.trim()

    def _count(
        self, day: int, last_seen: datetime, steps: dict[tuple[str, str, str, str], list[float]]
    ) -> None:
        counts: dict[Key, int] = {}
        rewards: dict[Key, float] = {}
        for (agent, field, before, after), (count, saved) in steps.items():
            key = ((agent, field, before), after)
            counts[key] = int(count)
            rewards[key] = saved
            anything = ((agent, field), after)
            counts[anything] = counts.get(anything, 0) + int(count)
        self._successions.add(day, last_seen, counts, rewards)

    def patterns(self) -> list[Finding]:
        taken = self._successions.take(self._judged)
        return [Finding(self._pattern(key), days) for key, days in taken]

    def _judged(self, key: Key) -> FourCounts | None:
        given, after = key
        if len(given) < 3 or given[2] == after:
            return None
        agent, field, _ = given
        counts = self._successions
        anything, staying = (agent, field), (agent, field, after)
        came, total = counts.count(*key), counts.total(given)
        elsewhere = counts.count(anything, after) - came - counts.count(staying, after)
        others = counts.total(anything) - total - counts.total(staying) - elsewhere
        return came, total - came, elsewhere, others

    def _pattern(self, key: Key) -> Pattern:
        (agent, field, before), after = key
        counts = self._successions
        total = counts.total(key[0])
        share, extra = counts.count(*key) / total, -counts.mean_reward(key)
        leaving = total - counts.count(key[0], before)
        costs = f", and the next step takes {about(extra)} s longer" if extra > 0 else ""
        return Pattern(
            PatternType.CONTEXT_SWITCH,
            {"agent": agent, "field": field, "from": before, "to": after},
            f"{who(agent)} moves from {field} {before} to {after} {of_ten(share)}{costs}",
            (Condition("agent", Operator.EQUALS, agent), Condition(field, Operator.EQUALS, before)),
            data={
                "share": coarse(share),
                "share_of_switches": coarse(counts.count(*key) / leaving if leaving else share),
                "extra_s": coarse(extra),
            },
        )

    def state(self) -> bytes:
        return pack(self.name, self.version, [self._successions.content(), self._sessions.content(list)])

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        successions, sessions = unpack(cls.name, cls.version, state)
        made = cls()
        made._successions = Successions.from_content(successions)
        made._sessions = Recent.from_content(sessions, _unpacked)
        return made


def _unpacked(row: list[Any]) -> Last:
    field, topic, duration_s, *_ = row
    return Last(field, topic, duration_s)


def _last(each: Observation) -> Last | None:
    context = each.context
    for field in TOPIC_FIELDS:
        if field in context:
            topic = text_of(context[field])
            return None if topic is None else Last(field, topic, each.duration_s)
    return None


def _saved_s(before: Last, after: Last) -> float:
    if before.duration_s is None or after.duration_s is None:
        return 0.0
    return before.duration_s - after.duration_s
