"""What people and other programs do next: learnt from operators' acts and from logs, and asked by a command.

Agents' own steps are left out: they are many, they follow the agents' code, and patterns tell of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from atlas.adapters.patterns import Model, PatternsDAO
from atlas.wording import counted
from maia.learner.knowledge import restored_model
from maia.learning.detectors.grouping import by_session
from maia.learning.detectors.preferences import OPERATOR
from maia.learning.next_action import END, STATE_VERSION
from maia.learning.next_actions import MOST_AGENTS, AgentActions, NextActions
from maia.learning.observations import Observation

NEXT_ACTIONS: Final = tuple(f"next_action.{number}" for number in range(MOST_AGENTS))
"""The models' names: one for each place, not for each agent, so that an agent's place can be another's."""

_ACTS: Final = "acts"
_SESSIONS_BETWEEN_PAUSES: Final = 100
_MOST_NAMED: Final = 5

T = TypeVar("T")


class Sequences:
    """The predictors of next actions, and what they have learnt since they were restored."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._next = _restored(models)

    def learn_acts(self, observations: Iterable[Observation]) -> None:
        """Learn what operators did, as one long session; a command that did one thing to many did it once."""
        acts = {(each.session, each.action): each.action for each in observations if each.agent == OPERATOR}
        if acts:
            self._next.learn(OPERATOR, _ACTS, acts.values())

    async def learn_log(self, source: str, page: Sequence[Observation]) -> None:
        """Take in a page of a log; its sessions may go on in the next page."""
        async for (agent, session), members in _with_pauses(by_session(page).items()):
            self._next.wait(agent, f"{source} {session}", [each.action for each in members])

    async def end_log(self, source: str) -> None:
        """Learn the sessions of a log that was read to its end."""
        async for agent, session in _with_pauses(self._next.waiting(f"{source} ")):
            self._next.end(agent, session)

    def models(self) -> list[Model]:
        """What has changed since it was restored, to be stored with the cursor."""
        return [
            Model(NEXT_ACTIONS[number], STATE_VERSION, each.state(), each.observed)
            for number, each in self._next.changed
        ]


async def _with_pauses(each: Iterable[T]) -> AsyncIterator[T]:
    """All of them, with pauses: as between detectors, whoever wants the process to stop is heard."""
    for number, one in enumerate(each):
        if number % _SESSIONS_BETWEEN_PAUSES == 0:
            await asyncio.sleep(0)
        yield one


@dataclass(frozen=True, slots=True)
class NextStep:
    """What may come next, and how likely it is; the action is None where the session ends."""

    action: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class NextSteps:
    """What an agent probably does next, or the reason why nothing is known."""

    agent: str | None
    observations: int
    """From how many actions it was learnt, the ends of sessions included."""
    after: Sequence[str]
    never_seen: Sequence[str]
    """Those of the given actions that the agent was never seen to do."""
    next: Sequence[NextStep]
    reason: str | None
    agents: Mapping[str, int]
    """All agents that are known, and from how many actions."""


async def next_steps(dao: PatternsDAO, actions: Sequence[str], agent: str | None = None) -> NextSteps:
    """What comes next after these actions, the last one last.

    Without `agent`, those of the agent that was seen to do the last action most often.
    """
    known = _restored(await dao.models(NEXT_ACTIONS))
    if agent is None:
        counts = {each: known.count(each, actions[-1]) for each in known.agents}
        agent = max(counts, key=counts.__getitem__, default=None)
        if agent is None or not counts[agent]:
            return NextSteps(None, 0, actions, actions, (), _why_of_nobody(known, actions[-1]), known.agents)
    observed = known.agents.get(agent, 0)
    never_seen = [each for each in actions if not known.count(agent, each)]
    if actions[-1] in never_seen:
        reason = _why_of(known, agent, actions[-1])
        return NextSteps(agent, observed, actions, never_seen, (), reason, known.agents)
    steps = [
        NextStep(None if each.action == END else each.action, each.probability)
        for each in known.predict(agent, actions)
    ]
    return NextSteps(agent, observed, actions, never_seen, steps, None, known.agents)


def _restored(models: Mapping[str, Model]) -> NextActions:
    return NextActions([restored_model(AgentActions, models.get(name)) for name in NEXT_ACTIONS])


def _why_of_nobody(known: NextActions, action: str) -> str:
    if not known.agents:
        return (
            "No sequence of actions has been learnt yet: maia learn --from FILE learns those of a log, and "
            "maia learner what you do."
        )
    return f"No agent was seen to do {action!r}. Known are: {_agents(known)}."


def _why_of(known: NextActions, agent: str, action: str) -> str:
    if agent not in known.agents:
        known_agents = f"Known are: {_agents(known)}." if known.agents else "No agent is known yet."
        return f"What {agent!r} does was not learnt. {known_agents}"
    usual = [each.action for each in known.predict(agent, ()) if each.action != END]
    return f"{agent} was never seen to do {action!r}, but often: {', '.join(usual[:_MOST_NAMED])}."


def _agents(known: NextActions) -> str:
    return ", ".join(f"{agent} ({counted(observed, 'action')})" for agent, observed in known.agents.items())
