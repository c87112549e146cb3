"""Success paths: which actions, in this order, make it likelier that a session ends well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any, ClassVar, Final, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.contrasts import Contrasts, Item, Key, Stratum, Table
from maia.learning.detectors.failure_modes import likelier, rates_of
from maia.learning.detectors.grouping import Recent, by_session, goal_of, latest_of
from maia.learning.detectors.tallies import instant, micros
from maia.learning.detectors.wording import who
from maia.learning.observations import SUCCESS, Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

LONGEST_PATH: Final = 3
_KEPT_STEPS: Final = 6
_REMEMBERED_PATHS: Final = 5000


@dataclass(slots=True)
class Session:
    """A session so far: its first and last steps without repetition, and how its last one went."""

    steps: list[str]
    succeeded: bool
    last_at: datetime
    goal: str


class SuccessPaths(ObservationDetector):
    """Compares sessions that took a path (up to three actions in order, others between) with the others.

    A session has ended when nothing came for `idle_h` by the observations' own clock, or when too many others
    came since. How its last step went is how it ended.
    """

    name: ClassVar[str] = "success_paths"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.SUCCESS_PATH})

    def __init__(self, capacity: int = 10_000, sessions: int = 5000, idle_h: float = 6.0) -> None:
        self._contrasts = Contrasts(capacity)
        self._sessions: Recent[Session] = Recent(sessions)
        self._idle = timedelta(hours=idle_h)
        self._now: datetime | None = None
        self._paths: dict[tuple[str, ...], list[Item]] = {}

    def observe(self, batch: Sequence[Observation]) -> None:
        if not batch:
            return
        for key, members in by_session(batch).items():
            self._go_on(key, members)
        latest = latest_of(batch)
        self._now = latest if self._now is None else max(self._now, latest)
        self._end_sessions(self._now - self._idle)
        self._contrasts.end_batch()

    def _go_on(self, key: tuple[str, str], members: list[Observation]) -> None:
        session = self._sessions.pop(key)
        if session is None:
            session = Session([], True, members[0].at, "")
        steps = session.steps
        for each in members:
            if not steps or steps[-1] != each.action:
                steps.append(each.action)
                if len(steps) > _KEPT_STEPS:
                    del steps[_KEPT_STEPS // 2]
        last = members[-1]
        if last.at >= session.last_at:
            session.last_at = last.at
            session.succeeded = last.outcome == SUCCESS
        session.goal = goal_of(last) or session.goal
        self._sessions.put(key, session)

    def _end_sessions(self, before: datetime) -> None:
        ended = [(key, session) for key, session in self._sessions.items() if session.last_at < before]
        for key, _ in ended:
            self._sessions.pop(key)
        by_stratum: dict[tuple[int, Stratum], list[Session]] = {}
        for key, session in ended + self._sessions.trim():
            at = (session.last_at.toordinal(), (key[0], session.goal))
            by_stratum.setdefault(at, []).append(session)
        for day, stratum in sorted(by_stratum, key=lambda at: at[0]):
            members = by_stratum[day, stratum]
            last_seen = max(session.last_at for session in members)
            records = [(self._paths_of(tuple(each.steps)), each.succeeded) for each in members]
            self._contrasts.add(stratum, day, last_seen, records)

    def _paths_of(self, steps: tuple[str, ...]) -> list[Item]:
        known = self._paths.get(steps)
        if known is None:
            if len(self._paths) >= _REMEMBERED_PATHS:
                self._paths.clear()
            known = self._paths[steps] = paths_in(steps)
        return known

    def patterns(self) -> list[Finding]:
        taken = self._contrasts.take()
        return [Finding(_pattern(key, self._contrasts.table(key)), days) for key, days in taken]

    def state(self) -> bytes:
        content = [
            self._contrasts.content(), self._sessions.content(_packed), self._idle / timedelta(hours=1),
            None if self._now is None else micros(self._now),
        ]  # fmt: skip
        return pack(self.name, self.version, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        contrasts, sessions, idle_h, now = unpack(cls.name, cls.version, state)
        made = cls(idle_h=idle_h)
        made._contrasts = Contrasts.from_content(contrasts)
        made._sessions = Recent.from_content(sessions, _unpacked)
        made._now = None if now is None else instant(now)
        return made


def paths_in(steps: Sequence[str]) -> list[Item]:
    """All paths of up to three of these steps, each once."""
    found = (path for length in range(1, LONGEST_PATH + 1) for path in combinations(steps, length))
    return list(dict.fromkeys(found))


def _packed(session: Session) -> list[Any]:
    return [session.steps, session.succeeded, micros(session.last_at), session.goal]


def _unpacked(row: list[Any]) -> Session:
    steps, succeeded, at, goal = row
    return Session(steps, succeeded, instant(at), goal)


def _pattern(key: Key, table: Table) -> Pattern:
    (agent, goal), path = key
    conditions = [Condition("agent", Operator.EQUALS, agent)]
    if goal:
        conditions.append(Condition("goal", Operator.EQUALS, goal))
    way = ", then ".join(path)
    toward = f" for {goal}" if goal else ""
    return Pattern(
        PatternType.SUCCESS_PATH,
        {"agent": agent, "goal": goal or None, "path": list(path)},
        f"{who(agent)}'s sessions{toward} end well {likelier(table.lift)} after {way}",
        tuple(conditions),
        action=way,
        data=rates_of(table),
    )
