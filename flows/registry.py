"""Every flow there is and how it is scheduled; to add an agent, add its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from atlas.errors import ConfigError

if TYPE_CHECKING:
    from prefect import Flow

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
"""Schedules count from here: from its own start, what is restarted often would never come to run."""

DEPLOYMENT = "default"
"""Each flow has one deployment of this name: `hunter/default`."""


@dataclass(frozen=True, slots=True)
class ServedFlow:
    """A flow, found as `flows.<name>.<name>`, and its deployment."""

    name: str
    interval_s: float | None
    """Seconds between runs; None: it runs only when something asks for it."""
    tags: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        return f"flows.{self.name}.{self.name}"

    @property
    def deployment(self) -> str:
        return f"{self.name}/{DEPLOYMENT}"

    def load(self) -> Flow[..., Any]:
        """The flow itself; imports Prefect."""
        found: Flow[..., Any] = getattr(import_module(f"flows.{self.name}"), self.name)
        return found


AGENTS = (
    ServedFlow("hunter", 600, ("agent", "youtube")),
    ServedFlow("tracker", 600, ("agent", "youtube")),
)
"""The agents, which run on a schedule."""

ALERT = ServedFlow("alert", None, ("alert",))
"""What tells people of runs that failed: an automation asks for it."""


def chosen(names: tuple[str, ...], intervals_s: Mapping[str, float]) -> list[ServedFlow]:
    """The agents of these names, or all, with their own intervals; ConfigError for one that there is not."""
    known = {agent.name: agent for agent in AGENTS}
    for setting, given in (("AGENTS", names), ("INTERVALS_S", intervals_s)):
        if unknown := sorted(set(given) - known.keys()):
            raise ConfigError(
                f"PLEIADES_PREFECT__{setting}: there is no agent {', '.join(unknown)}; "
                f"the agents are {', '.join(known)}"
            )
    return [
        ServedFlow(agent.name, intervals_s.get(agent.name, agent.interval_s), agent.tags, agent.parameters)
        for agent in AGENTS
        if not names or agent.name in names
    ]
