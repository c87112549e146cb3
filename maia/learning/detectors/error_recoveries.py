"""Error recoveries: what helped after a failure, and what was tried in vain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.significance import Screen, fisher_greater
from maia.learning.detectors.tallies import Tallies, Tally, frozen, instant, micros
from maia.learning.detectors.wording import of_ten, whose
from maia.learning.observations import SUCCESS, Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

Failure = tuple[str, str, str, str]
"""Agent, action, outcome, and the template of the error text or an empty text."""
Key = tuple[Failure, str]

STEPS: Final = 5
"""What comes later than so many steps after a failure no longer has to do with it."""
_WAITS: Final = (
    (5.0, "try again at once"),
    (60.0, "wait seconds"),
    (3600.0, "wait minutes"),
    (6 * 3600.0, "wait an hour"),
)
_LONG_WAIT: Final = "wait until the next day"
_RETRIES: Final = frozenset({*(label for _, label in _WAITS), _LONG_WAIT})
_LONG_S: Final = 3600.0
_FEW: Final = 5
_RECENT_SESSIONS: Final = 64
_TEMPLATE_LENGTH: Final = 80
_DIGITS: Final = re.compile(r"\d+")


@dataclass(slots=True)
class Episode:
    """A failure that nothing came of yet, and which actions succeeded since."""

    failure: Failure
    session: str
    at: datetime
    steps_left: int = STEPS
    tried: list[str] = field(default_factory=list)
    substitute: str | None = None
    """The first action that succeeded in the same session."""


@dataclass(slots=True)
class AgentSessions:
    """Whether an agent works on one session after another, or on several by turns."""

    current: str
    recent: dict[str, None]
    by_turns: bool = False

    def enter(self, session: str) -> None:
        self.by_turns = self.by_turns or session in self.recent
        self.recent[session] = None
        if len(self.recent) > _RECENT_SESSIONS:
            del self.recent[next(iter(self.recent))]
        self.current = session


class ErrorRecoveries(ObservationDetector):
    """Follows each failure for five steps of its agent, or of its session if the agent has several at once.

    When what failed is tried again, the actions since then are credited or blamed for how it went; without
    any, the time that passed is. If it is not tried again, the first action that succeeded in the same
    session instead is credited. Actions that failed are blamed at once.

    The best five recoveries of each failure are reported, but other actions than a retry only if they do
    better or worse than what else was tried.
    """

    name: ClassVar[str] = "error_recoveries"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.ERROR_RECOVERY})

    def __init__(
        self, capacity: int = 5000, streams: int = 5000, least_support: int = 5, most_recoveries: int = 5
    ) -> None:
        self._tallies: Tallies[Key] = Tallies(capacity)
        self._tried: dict[Failure, dict[str, Tally]] = {}
        """The same tallies, by failure."""
        self._screen: Screen[Key] = Screen(least_support)
        self._streams = streams
        self._least_support = least_support
        self._most_recoveries = most_recoveries
        self._agents: dict[str, AgentSessions] = {}
        self._open: dict[tuple[str, str], list[Episode]] = {}
        self._gained: dict[Key, None] = {}

    def observe(self, batch: Sequence[Observation]) -> None:
        for each in batch:
            agent, session = each.agent, each.session
            sessions = self._agents.get(agent)
            if sessions is None:
                sessions = self._agents[agent] = AgentSessions(session, {session: None})
            elif sessions.current != session:
                sessions.enter(session)
            stream = (agent, session if sessions.by_turns else "")
            if stream in self._open:
                self._go_on(stream, each)
            elif each.outcome != SUCCESS:
                self._open[stream] = [_episode_of(each)]
        self._trim()

    def _go_on(self, stream: tuple[str, str], each: Observation) -> None:
        episodes = [episode for episode in self._open.pop(stream) if self._stays_open(episode, each)]
        if each.outcome != SUCCESS:
            episodes.append(_episode_of(each))
        if episodes:
            self._open[stream] = episodes

    def _stays_open(self, episode: Episode, each: Observation) -> bool:
        succeeded = each.outcome == SUCCESS
        if each.action == episode.failure[1]:
            waited_s = (each.at - episode.at).total_seconds()
            tried = episode.tried[:]
            if not tried or waited_s >= _LONG_S:
                tried.append(_wait(waited_s))
            self._count(episode.failure, tried, each, succeeded)
            return False
        if not succeeded:
            self._count(episode.failure, [each.action], each, succeeded)
        else:
            if each.action not in episode.tried:
                episode.tried.append(each.action)
            if episode.substitute is None and each.session == episode.session:
                episode.substitute = each.action
        episode.steps_left -= 1
        if not episode.steps_left and episode.substitute is not None:
            self._count(episode.failure, [episode.substitute], each, True)
        return episode.steps_left > 0

    def _count(self, failure: Failure, tried: list[str], each: Observation, helped: bool) -> None:
        for action in tried:
            key = (failure, action)
            tally = self._tallies.add(key, each.at.toordinal(), int(helped), int(not helped), each.at)
            self._tried.setdefault(failure, {})[action] = tally
            self._gained[key] = None

    def _trim(self) -> None:
        evicted = self._tallies.trim()
        self._screen.forget(evicted)
        for key in evicted:
            self._gained.pop(key, None)
        if evicted:
            self._tried = _tried_in(self._tallies)
        while len(self._open) > self._streams:
            del self._open[next(iter(self._open))]
        while len(self._agents) > self._streams:
            del self._agents[next(iter(self._agents))]

    def patterns(self) -> list[Finding]:
        gained = [key for key in self._gained if self._support(key) >= self._least_support]
        self._gained.clear()
        rivals = {failure: self._tried[failure] for failure, _ in gained}
        alone = {key for key in gained if not self._compared(key, rivals[key[0]])}
        self._screen.settle()
        ranked = {failure: self._ranked(found) for failure, found in rivals.items()}
        ready = [
            key
            for key in gained
            if self._tallies.kept(key)
            or (
                key[1] in ranked[key[0]][: self._most_recoveries]
                and (key in alone or key in self._screen.accepted)
            )
        ]
        taken = self._tallies.take(ready)
        return [Finding(self._pattern(key, ranked[key[0]]), days) for key, days in taken.items()]

    def _ranked(self, rivals: Mapping[str, Tally]) -> list[str]:
        """What was tried often enough, the most helpful first."""
        known = [name for name, tally in rivals.items() if tally.support >= self._least_support]
        return sorted(known, key=lambda name: -_mean(rivals[name]))

    def _compared(self, key: Key, rivals: Mapping[str, Tally]) -> bool:
        """Compare a recovery with what else was tried; False if there is nothing to compare it with.

        To try again needs no comparison: that it helps is worth knowing even where anything does. It is what
        others are compared with only for want of other actions, as those are also blamed for their own
        failures.
        """
        own = rivals[key[1]]
        others = [each for name, each in rivals.items() if name not in _RETRIES and name != key[1]]
        retries = [each for name, each in rivals.items() if name in _RETRIES]
        known = [each for each in (others, retries) if _FEW * sum(one.support for one in each) >= own.support]
        if key[1] in _RETRIES or not known:
            return False
        pos, neg = sum(each.pos for each in known[0]), sum(each.neg for each in known[0])
        if key not in self._screen.accepted and self._screen.due(key, own.support):
            better = fisher_greater(own.pos, own.neg, pos, neg)
            worse = fisher_greater(own.neg, own.pos, neg, pos)
            self._screen.look(key, own.support, min(1.0, 2 * min(better, worse)))
        return True

    def _support(self, key: Key) -> float:
        tally = self._tallies.get(key)
        return tally.support if tally else 0

    def _pattern(self, key: Key, ranked: list[str]) -> Pattern:
        (agent, action, outcome, error), recovery = key
        tally = self._tallies.get(key)
        assert tally is not None
        conditions = [
            Condition("agent", Operator.EQUALS, agent),
            Condition("action", Operator.EQUALS, action),
            Condition("outcome", Operator.EQUALS, outcome),
        ]
        if error and "#" not in error:
            conditions.append(Condition("error", Operator.EQUALS, error))
        helped = of_ten(tally.pos / tally.support)
        what = f"{whose(agent, action)} failed with {outcome}" + (f" ({error})" if error else "")
        return Pattern(
            PatternType.ERROR_RECOVERY,
            {
                "agent": agent,
                "action": action,
                "outcome": outcome,
                "error": error or None,
                "recovery": recovery,
            },
            f"after {what}, {'to ' if recovery in _RETRIES else ''}{recovery} helped {helped}",
            tuple(conditions),
            action=recovery,
            data={"rank": ranked.index(recovery) + 1, "of": len(ranked)},
        )

    def state(self) -> bytes:
        agents = [
            [name, each.current, list(each.recent), each.by_turns] for name, each in self._agents.items()
        ]
        episodes = [[stream, list(map(_packed, each))] for stream, each in self._open.items()]
        content = [
            self._tallies.content(), self._screen.content(), self._streams, self._least_support,
            self._most_recoveries, agents, episodes, list(self._gained),
        ]  # fmt: skip
        return pack(self.name, self.version, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        tallies, screen, streams, least_support, most, agents, episodes, gained = unpack(
            cls.name, cls.version, state
        )
        made = cls(streams=streams, least_support=least_support, most_recoveries=most)
        made._tallies = Tallies.from_content(tallies)
        made._tried = _tried_in(made._tallies)
        made._screen = Screen.from_content(screen)
        made._agents = {
            name: AgentSessions(current, dict.fromkeys(recent), by_turns)
            for name, current, recent, by_turns in agents
        }
        made._open = {frozen(stream): [_episode(row) for row in rows] for stream, rows in episodes}
        made._gained = {frozen(key): None for key in gained}
        return made


def _tried_in(tallies: Tallies[Key]) -> dict[Failure, dict[str, Tally]]:
    found: dict[Failure, dict[str, Tally]] = {}
    for (failure, action), tally in tallies.items():
        found.setdefault(failure, {})[action] = tally
    return found


def _packed(each: Episode) -> list[Any]:
    return [each.failure, each.session, micros(each.at), each.steps_left, each.tried, each.substitute]


def _episode(row: list[Any]) -> Episode:
    failure, session, at, steps_left, tried, substitute = row
    return Episode(frozen(failure), session, instant(at), steps_left, tried, substitute)


def _episode_of(each: Observation) -> Episode:
    return Episode(_failure(each), each.session, each.at)


def _failure(each: Observation) -> Failure:
    error = each.context.get("error")
    template = _DIGITS.sub("#", error)[:_TEMPLATE_LENGTH] if isinstance(error, str) else ""
    return each.agent, each.action, each.outcome, template


def _wait(waited_s: float) -> str:
    return next((label for limit_s, label in _WAITS if waited_s < limit_s), _LONG_WAIT)


def _mean(tally: Tally) -> float:
    return (tally.pos + 1) / (tally.support + 2)
