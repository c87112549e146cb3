"""Success paths: which actions, in this order, make it likelier that a session ends well or brings much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any, ClassVar, Final, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.contrasts import Contrasts, Item, Key, Stratum, Table
from maia.learning.detectors.failure_modes import likelier, rates_of
from maia.learning.detectors.grouping import Recent, by_session, goal_of, latest_of
from maia.learning.detectors.tallies import instant, micros
from maia.learning.detectors.wording import who
from maia.learning.observations import CYCLE, SUCCESS, Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.running import RunningMedian
from maia.learning.states import pack, unpack

LONGEST_PATH: Final = 3
_KEPT_STEPS: Final = 6
_REMEMBERED_PATHS: Final = 5000
_STRATA: Final = 1000
_REWARD: Final = "reward"


_LEAST_SESSIONS: Final = 20
"""So many sessions must have told what is usual before others are compared with it."""
_LEAST_RATE: Final = 0.01
_RARE: Final = 0.05
"""If fewer sessions end badly, or well, their ends tell little."""


@dataclass(slots=True)
class Session:
    """A session so far: its first and last steps without repetition, and how it went."""

    steps: list[str]
    succeeded: bool
    last_at: datetime
    goal: str
    reward: float = 0.0
    done: list[str] = field(default_factory=list)
    """The same of those steps that succeeded."""


@dataclass(slots=True)
class _Usual:
    """How sessions for a goal usually end: the share that ends well, and the median reward, both running."""

    well: float = 1.0
    is_rewarded: bool = False
    reward: RunningMedian = field(default_factory=RunningMedian)

    def is_more(self, reward: float) -> bool | None:
        """Whether that is more than usual; None where their ends tell more, or nothing is known yet."""
        ends_tell = _RARE <= self.well <= 1 - _RARE
        known = self.is_rewarded and not ends_tell and self.reward.values >= _LEAST_SESSIONS
        return reward > self.reward.median if known else None

    def observe(self, reward: float, *, well: bool) -> None:
        """Learn from a session; the more there were, the more slowly."""
        self.reward.observe(reward, _LEAST_RATE)
        self.is_rewarded |= reward > 0
        self.well += max(_LEAST_RATE, 1 / self.reward.values) * (well - self.well)


class SuccessPaths(ObservationDetector):
    """Compares sessions that took a path (up to three actions in order, others between) with the others.

    A session has ended when nothing came for `idle_h` by the observations' own clock, or when too many others
    came since. How its last step went is how it ended; that a cycle came to its end says nothing of that.
    Where nearly all sessions for a goal end alike but have rewards, it is compared whether they brought more
    than usual, by the steps that succeeded.
    """

    name: ClassVar[str] = "success_paths"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.SUCCESS_PATH})

    def __init__(self, capacity: int = 10_000, sessions: int = 5000, idle_h: float = 6.0) -> None:
        self._contrasts = Contrasts(capacity)
        self._sessions: Recent[Session] = Recent(sessions)
        self._usual: Recent[_Usual] = Recent(_STRATA)
        self._idle = timedelta(hours=idle_h)
        self._now: datetime | None = None
        self._none_before: datetime | None = None
        """No session that is remembered had its last step before; None if that isn't known."""
        self._paths: dict[tuple[str, ...], list[Item]] = {}

    def observe(self, batch: Sequence[Observation]) -> None:
        if not batch:
            return
        for key, members in by_session(batch).items():
            if told := [each for each in members if each.action != CYCLE or not each.succeeded]:
                self._go_on(key, told)
        latest = latest_of(batch)
        self._now = latest if self._now is None else max(self._now, latest)
        self._end_sessions(self._now - self._idle)
        self._contrasts.end_batch()

    def _go_on(self, key: tuple[str, str], members: list[Observation]) -> None:
        session = self._sessions.pop(key)
        if session is None:
            session = Session([], True, members[0].at, "")
        for each in members:
            session.reward += each.reward
            _add_step(session.steps, each.action)
            if each.succeeded:
                _add_step(session.done, each.action)
        last = members[-1]
        if last.at >= session.last_at:
            session.last_at = last.at
            session.succeeded = last.outcome == SUCCESS
        session.goal = goal_of(last) or session.goal
        self._sessions.put(key, session)
        if self._none_before is not None:
            self._none_before = min(self._none_before, session.last_at)

    def _end_sessions(self, before: datetime) -> None:
        ended: list[tuple[Any, Session]] = []
        if self._none_before is None or self._none_before < before:
            ended = [(key, session) for key, session in self._sessions.items() if session.last_at < before]
            for key, _ in ended:
                self._sessions.pop(key)
            self._none_before = min((each.last_at for _, each in self._sessions.items()), default=before)
        by_stratum: dict[tuple[int, Stratum], list[tuple[Session, list[str], bool]]] = {}
        for (agent, _), session in ended + self._sessions.trim():
            goal = (agent, session.goal)
            usual = self._usual.pop(goal) or _Usual()
            is_more = usual.is_more(session.reward)
            usual.observe(session.reward, well=session.succeeded)
            self._usual.put(goal, usual)
            day = session.last_at.toordinal()
            if is_more is not None:
                told = (session, session.done, is_more)
                by_stratum.setdefault((day, (*goal, _REWARD)), []).append(told)
            else:
                told = (session, session.steps, session.succeeded)
                by_stratum.setdefault((day, goal), []).append(told)
        self._usual.trim()
        for day, stratum in sorted(by_stratum, key=lambda at: at[0]):
            members = by_stratum[day, stratum]
            last_seen = max(session.last_at for session, _, _ in members)
            records = [(self._paths_of(tuple(steps)), well) for _, steps, well in members]
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
            None if self._now is None else micros(self._now), self._usual.content(_packed_usual),
        ]  # fmt: skip
        return pack(self.name, self.version, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        contrasts, sessions, idle_h, now, *later = unpack(cls.name, cls.version, state)
        made = cls(idle_h=idle_h)
        made._contrasts = Contrasts.from_content(contrasts)
        made._sessions = Recent.from_content(sessions, _unpacked)
        made._now = None if now is None else instant(now)
        for usual in later:
            made._usual = Recent.from_content(usual, _unpacked_usual)
        return made


def _add_step(steps: list[str], action: str) -> None:
    if not steps or steps[-1] != action:
        steps.append(action)
        if len(steps) > _KEPT_STEPS:
            del steps[_KEPT_STEPS // 2]


def paths_in(steps: Sequence[str]) -> list[Item]:
    """All paths of up to three of these steps, each once."""
    found = (path for length in range(1, LONGEST_PATH + 1) for path in combinations(steps, length))
    return list(dict.fromkeys(found))


def _packed_usual(usual: _Usual) -> list[Any]:
    return [usual.well, usual.is_rewarded, *astuple(usual.reward)]


def _unpacked_usual(row: list[Any]) -> _Usual:
    well, is_rewarded, *reward = row
    return _Usual(well, is_rewarded, RunningMedian(*reward))


def _packed(session: Session) -> list[Any]:
    return [
        session.steps, session.succeeded, micros(session.last_at), session.goal, session.reward, session.done,
    ]  # fmt: skip


def _unpacked(row: list[Any]) -> Session:
    steps, succeeded, at, goal, *later = row
    return Session(steps, succeeded, instant(at), goal, *later)


def _pattern(key: Key, table: Table) -> Pattern:
    (agent, goal, *by_reward), path = key
    conditions = [Condition("agent", Operator.EQUALS, agent)]
    signature: dict[str, object] = {"agent": agent, "goal": goal or None, "path": list(path)}
    if goal:
        conditions.append(Condition("goal", Operator.EQUALS, goal))
    if by_reward:
        signature["success"] = _REWARD
    way = ", then ".join(path)
    toward = f" for {goal}" if goal else ""
    well = "bring more than usual" if by_reward else "end well"
    return Pattern(
        PatternType.SUCCESS_PATH,
        signature,
        f"{who(agent)}'s sessions{toward} {well} {likelier(table.lift)} after {way}",
        tuple(conditions),
        action=way,
        data=rates_of(table),
    )
