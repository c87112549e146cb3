"""The registry of flows and their schedules: one flow per agent, and the alert flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from atlas.errors import ConfigError
from maia import agents
from maia.agents import AgentRecord

if TYPE_CHECKING:
    from prefect import Flow

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
"""Schedules count from this time. If they counted from the start of a process, one that restarts often would
never run a flow."""

DEPLOYMENT = "default"
"""The name of each flow's only deployment, as in `hunter/default`."""


@dataclass(frozen=True, slots=True)
class ServedFlow:
    """A flow, importable as `<module>.<name>`, and its deployment."""

    name: str
    module: str
    about: str
    interval_s: float | None
    """Seconds between runs; None if it runs only on request."""
    tags: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def deployment(self) -> str:
        return f"{self.name}/{DEPLOYMENT}"

    def load(self) -> Flow[..., Any]:
        """Load the flow, which imports Prefect."""
        found: Flow[..., Any] = getattr(import_module(self.module), self.name)
        return found


ALERT = ServedFlow(
    "alert",
    "flows.alert",
    "Alert people to a run that failed or crashed; started by an automation.",
    None,
    ("alert",),
)


def served(agent: AgentRecord, interval_s: float | None = None) -> ServedFlow:
    """The scheduled flow of an agent."""
    tags = ("agent", "youtube") if agent.ring else ("agent",)
    return ServedFlow(agent.name, "flows.agents", agent.about, interval_s or agent.interval_s, tags)


def chosen(names: tuple[str, ...], intervals_s: Mapping[str, float]) -> list[ServedFlow]:
    """The flows of the named agents, or of all, with their intervals; ConfigError for an unknown name."""
    known = {agent.name: agent for agent in agents.AGENTS}
    for setting, given in (("PREFECT__AGENTS", names), ("AGENTS__INTERVALS_S", intervals_s)):
        if unknown := sorted(set(given) - known.keys()):
            raise ConfigError(
                f"PLEIADES_{setting}: there is no agent {', '.join(unknown)}; "
                f"the agents are {', '.join(known)}"
            )
    return [
        served(agent, intervals_s.get(agent.name))
        for agent in agents.AGENTS
        if not names or agent.name in names
    ]
