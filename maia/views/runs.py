"""The runs view: when each agent last ran, how that ended, and when it is due again.

Nothing stored says what runs an agent, so that only its cycles tell whether it is run again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from maia.maintenance.health_terms import Basis
    from maia.views.status import Status

_OTHER: Final = frozenset({"at", "node", "outcome", "seconds", "detail", "cycles"})


@dataclass(frozen=True, slots=True)
class Cycle:
    """A cycle of an agent: how it ended, how long it took, and what it counted."""

    agent: str
    at: datetime
    node: str
    outcome: str | None
    seconds: float | None
    detail: str | None
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentRuns:
    """An agent with its last cycles, newest first; `next_at` is None if no next one is to be expected."""

    agent: str
    about: str
    interval_s: float
    cycles: tuple[Cycle, ...]
    next_at: datetime | None


def runs(status: Status, agents: Iterable[tuple[str, str, float]], basis: Basis) -> tuple[AgentRuns, ...]:
    """The runs of agents, each given by its name, what it is about, and its interval in seconds."""
    return tuple(_runs(status, basis, *agent) for agent in agents)


def _runs(status: Status, basis: Basis, agent: str, about: str, interval_s: float) -> AgentRuns:
    cycles = tuple(_cycle(agent, each) for each in status.cycles.get(agent, ()))
    next_at = cycles[0].at + timedelta(seconds=interval_s) if _go_on(cycles, interval_s, basis) else None
    return AgentRuns(agent, about, interval_s, cycles, next_at)


def _go_on(cycles: Sequence[Cycle], interval_s: float, basis: Basis) -> bool:
    """Whether the last cycles came in turns, and the next one isn't too late.

    Those that somebody asked for come alone, or one directly after the other. What lies in the future is of
    another clock, such as a demo's.
    """
    late = basis.allowed(interval_s)
    if not cycles or not -basis.grace <= basis.now - cycles[0].at <= late:
        return False
    last = cycles[0]
    return any(
        each.node != last.node or last.at - each.at >= timedelta(seconds=interval_s / 2)
        for each in cycles[1:]
        if last.at - each.at <= late
    )


def _cycle(agent: str, payload: Mapping[str, Any]) -> Cycle:
    seconds = payload.get("seconds")
    return Cycle(
        agent=agent,
        at=payload["at"],
        node=payload["node"],
        outcome=payload.get("outcome"),
        seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
        detail=payload.get("detail") or None,
        counts={
            name: value
            for name, value in payload.items()
            if name not in _OTHER and isinstance(value, (int, float)) and value and value is not True
        },
    )
