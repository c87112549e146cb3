"""Task sequences: which action usually follows others within a session, directly or after one more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.grouping import Recent, by_session
from maia.learning.detectors.successions import FourCounts, Given, Key, Successions
from maia.learning.detectors.wording import coarse, of_ten, who
from maia.learning.observations import Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

History = tuple[str | None, str | None, str | None]
"""The last three actions of a session, the latest last."""
Window = tuple[int, str, str | None, str | None, str, str]
"""A day's ordinal, an agent, three actions before the last one, and the last one."""
_NONE: Final[History] = (None, None, None)
_EXPLAINED: Final = 0.5
"""If one action between accounts for so much of a sequence with a gap, that without a gap says more."""

LAST_ACTIONS: Final = ("last_action", "last_action_2", "last_action_3")
"""The fields of a context that say what was done before, the latest first."""


class TaskSequences(ObservationDetector):
    """Counts which action follows up to three others, and reports what comes more often than not.

    A sequence must beat the one without its first action, so that the shortest that says it is reported.
    """

    name: ClassVar[str] = "task_sequences"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.TASK_SEQUENCE})

    def __init__(self, capacity: int = 20_000, sessions: int = 5000, least_count: int = 20) -> None:
        self._successions = Successions(capacity, least_count=least_count, least_share=0.5)
        self._sessions: Recent[History] = Recent(sessions)

    def observe(self, batch: Sequence[Observation]) -> None:
        windows: dict[Window, int] = {}
        last_seen: dict[int, datetime] = {}
        for key, members in by_session(batch).items():
            agent = key[0]
            third, second, first = self._sessions.pop(key) or _NONE
            for each in members:
                action, at = each.action, each.at
                day = at.toordinal()
                if first is not None:
                    window = (day, agent, third, second, first, action)
                    windows[window] = windows.get(window, 0) + 1
                    known = last_seen.get(day)
                    if known is None or at > known:
                        last_seen[day] = at
                third, second, first = second, first, action
            self._sessions.put(key, (third, second, first))
        self._sessions.trim()
        for day in sorted(last_seen):
            counts: dict[Key, int] = {}
            for window, count in windows.items():
                if window[0] == day:
                    _expand(window, count, counts)
            self._successions.add(day, last_seen[day], counts, {})
        self._successions.trim()

    def patterns(self) -> list[Finding]:
        taken = self._successions.take(self._judged)
        return [Finding(self._pattern(key), days) for key, days in taken]

    def _judged(self, key: Key) -> FourCounts | None:
        (agent, gap, prefix), then = key
        counts = self._successions
        if not prefix or (gap and self._explained(agent, prefix, then)):
            return None
        shorter = (agent, gap, prefix[1:])
        total, came = counts.total(key[0]), counts.count(*key)
        others = counts.count(shorter, then) - came
        return came, total - came, others, counts.total(shorter) - total - others

    def _explained(self, agent: str, prefix: tuple[str, ...], then: str) -> bool:
        counts = self._successions
        between = counts.thens((agent, 0, prefix))
        direct = [counts.count((agent, 0, (*prefix, middle)), then) for middle in between]
        return max(direct, default=0) >= _EXPLAINED * counts.count((agent, 1, prefix), then)

    def _pattern(self, key: Key) -> Pattern:
        (agent, gap, prefix), then = key
        share = self._successions.count(*key) / self._successions.total(key[0])
        usual = self._successions.count((agent, gap, ()), then) / self._successions.total((agent, gap, ()))
        fields = LAST_ACTIONS[gap : gap + len(prefix)]
        before = [
            Condition(field, Operator.EQUALS, action)
            for field, action in zip(fields, reversed(prefix), strict=True)
        ]
        middle = " and one other action" if gap else ""
        return Pattern(
            PatternType.TASK_SEQUENCE,
            {"agent": agent, "after": list(prefix), "gap": gap, "then": then},
            f"after {', '.join(prefix)}{middle}, {who(agent)} goes on with {then} {of_ten(share)}",
            (Condition("agent", Operator.EQUALS, agent), *before),
            data={"share": coarse(share), "usual_share": coarse(usual)},
        )

    def state(self) -> bytes:
        return pack(self.name, self.version, [self._successions.content(), self._sessions.content(list)])

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        successions, sessions = unpack(cls.name, cls.version, state)
        made = cls()
        made._successions = Successions.from_content(successions)
        made._sessions = Recent.from_content(sessions, _history)
        return made


def _history(row: list[Any]) -> History:
    third, second, first = row
    return third, second, first


def _expand(window: Window, count: int, counts: dict[Key, int]) -> None:
    """Count one window for all that may precede its last action, without a gap and with one."""
    _, agent, third, second, first, then = window
    givens: list[Given] = [(agent, 0, ()), (agent, 0, (first,))]
    if second is not None:
        givens += [(agent, 0, (second, first)), (agent, 1, ()), (agent, 1, (second,))]
        if third is not None:
            givens += [(agent, 0, (third, second, first)), (agent, 1, (third, second))]
    for given in givens:
        key = (given, then)
        counts[key] = counts.get(key, 0) + count
