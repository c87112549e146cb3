"""Next actions by agent: a predictor for each of the agents whose sequences were learnt last.

The sessions of a log are learnt whole, each with its end. As nothing in a log says that a session is over,
they wait until the log is, or until too many actions wait. Ends that were learnt one after the other, long
after the actions, would be taken for what has become usual lately.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Self

from maia.learning.next_action import STATE_VERSION, NextAction, Prediction
from maia.learning.states import StateError, pack, unpack

MOST_AGENTS: Final = 20
MOST_PREDICTIONS: Final = 8
_MOST_CONTEXTS: Final = 100_000
_MOST_ACTIONS: Final = 5_000
_MOST_WAITING: Final = 50_000
_LONGEST_WAITING: Final = 1_000
"""A session of more actions is learnt bit by bit."""
_NAME: Final = "next_action"


class AgentActions:
    """A place for one agent's predictor; unpacked only when it's asked or taught. Free at first."""

    def __init__(self) -> None:
        self._take("", 0)

    def _take(self, agent: str, turn: int) -> None:
        self.agent = agent
        """Empty while the place is free."""
        self.turn = turn
        """The agent with the lowest was learnt from least recently."""
        self.observed = 0
        """How many actions it was learnt from, the ends of sessions included."""
        self.waiting: dict[str, list[str]] = {}
        """The actions of open sessions that have yet to be learnt, the quietest session first."""
        self.waiting_actions = 0
        self._packed: bytes | None = None
        self._predictor: NextAction | None = None

    def give(self, agent: str, turn: int) -> None:
        """Give the place to another agent, of which nothing is known."""
        self._take(agent, turn)

    @property
    def predictor(self) -> NextAction:
        if self._predictor is None:
            if self._packed is None:
                self._predictor = NextAction(_MOST_CONTEXTS, _MOST_ACTIONS)
            else:
                self._predictor = NextAction.from_state(self._packed)
        return self._predictor

    def wait(self, session: str, actions: Iterable[str]) -> None:
        """Keep what was done in a session until it has ended; the quietest end if too much is kept."""
        waiting = self.waiting[session] = self.waiting.pop(session, [])
        before = len(waiting)
        waiting += actions
        self.waiting_actions += len(waiting) - before
        if len(waiting) > _LONGEST_WAITING:
            self._learn_waiting(session)
            self.waiting[session] = []
        while self.waiting_actions > _MOST_WAITING:
            self.end(next(iter(self.waiting)))

    def learn(self, session: str, actions: Iterable[str]) -> None:
        """Learn what was done in a session at once."""
        for action in actions:
            self.predictor.update(session, action)
        self.observed = self.predictor.observed

    def end(self, session: str) -> None:
        """Learn what waits of a session, and its end."""
        self._learn_waiting(session)
        self.predictor.end(session)
        self.observed = self.predictor.observed

    def _learn_waiting(self, session: str) -> None:
        actions = self.waiting.pop(session, [])
        self.waiting_actions -= len(actions)
        self.learn(session, actions)

    def state(self) -> bytes:
        packed = self._packed if self._predictor is None else self._predictor.state()
        waiting = [[session, actions] for session, actions in self.waiting.items()]
        content = [STATE_VERSION, self.agent, self.turn, self.observed, waiting, packed]
        return pack(_NAME, STATE_VERSION, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """The place as it was; StateError if it's damaged, or of a version that isn't read any more."""
        version, agent, turn, observed, waiting, packed = unpack(_NAME, STATE_VERSION, state)
        if version != STATE_VERSION:
            raise StateError(f"the next actions of {agent} have version {version}, which isn't read any more")
        made = cls()
        made.give(agent, turn)
        made.observed, made._packed = observed, packed
        made.waiting = dict(waiting)
        made.waiting_actions = sum(map(len, made.waiting.values()))
        return made


class NextActions:
    """Learns what follows what in the sessions of up to 20 agents; the least recently learnt goes first."""

    def __init__(self, places: Sequence[AgentActions] = ()) -> None:
        self.places = places or [AgentActions() for _ in range(MOST_AGENTS)]
        self._turn = max(each.turn for each in self.places)
        self._changed: set[int] = set()

    @property
    def agents(self) -> dict[str, int]:
        """From how many actions each agent's predictor was learnt; the latest learnt comes first."""
        latest_first = sorted(self.places, key=lambda each: -each.turn)
        return {each.agent: each.observed for each in latest_first if each.turn}

    def learn(self, agent: str, session: str, actions: Iterable[str]) -> None:
        """Learn at once what an agent did next in a session that nobody knows the end of."""
        self._place(agent).learn(session, actions)

    def wait(self, agent: str, session: str, actions: Iterable[str]) -> None:
        """Keep what an agent did next in a session, to be learnt when it has ended."""
        self._place(agent).wait(session, actions)

    def waiting(self, prefix: str) -> list[tuple[str, str]]:
        """The agents and open sessions of which something is kept, and whose names begin so."""
        return [
            (place.agent, session)
            for place in self.places
            for session in place.waiting
            if session.startswith(prefix)
        ]

    def end(self, agent: str, session: str) -> None:
        """Learn what is kept of a session, and that it has ended."""
        self._place(agent).end(session)

    def predict(self, agent: str, actions: Sequence[str]) -> list[Prediction]:
        """What follows these actions, wherever in a session they are; nothing of an unknown agent."""
        place = self._known(agent)
        return place.predictor.predict(actions, MOST_PREDICTIONS, from_start=False) if place else []

    def count(self, agent: str, action: str) -> int:
        """How often an agent was seen to do this."""
        place = self._known(agent)
        return place.predictor.count(action) if place else 0

    @property
    def changed(self) -> list[tuple[int, AgentActions]]:
        """The places that were taught, with their numbers."""
        return [(number, self.places[number]) for number in sorted(self._changed)]

    def _known(self, agent: str) -> AgentActions | None:
        return next((each for each in self.places if each.turn and each.agent == agent), None)

    def _place(self, agent: str) -> AgentActions:
        """The agent's place, as the one learnt last; if it has none, that of the one that's out of turn."""
        self._turn += 1
        place = self._known(agent)
        if place is None:
            place = min(self.places, key=lambda each: each.turn)
            place.give(agent, self._turn)
        place.turn = self._turn
        self._changed.add(self.places.index(place))
        return place
