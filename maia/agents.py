"""The registry of agents. Commands, flows, deployments, systemd units and docs loop over it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.config import RingName, Settings
    from maia.cycle.agent import Agent


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent's entry in the registry.

    `about` describes it in a line, `items` names what a batch contains, `ring` is the ring whose quota it
    spends (None: it makes no calls), `interval_s` the default interval between runs in seconds, and
    `implementation` the import path of its class. `tables` names further tables that its runs leave.
    `options` are what a run can be asked to do differently, and `choices` those that come with a list of
    values, as in `only=health,cleanup`; each with a sentence of help.
    """

    name: str
    about: str
    items: str
    ring: RingName | None
    interval_s: float
    implementation: str
    tables: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> type[Agent[Any]]:
        """Import the agent's class."""
        module, _, name = self.implementation.partition(":")
        found: type[Agent[Any]] = getattr(import_module(module), name)
        return found

    def check_options(self, options: Collection[str]) -> None:
        """ConfigError if the agent doesn't have one of the options, or it should come with values."""
        for option in options:
            name, has_values, _ = option.partition("=")
            if name in self.choices if has_values else name in self.options:
                continue
            from atlas.errors import ConfigError

            known = ", ".join([*self.options, *(f"{each}=…" for each in self.choices)]) or "none"
            raise ConfigError(f"the {self.name} has no option {option!r}; its options: {known}")


AGENTS: tuple[AgentRecord, ...] = (
    AgentRecord(
        name="hunter",
        about="Find new videos by search, feeds, uploads and charts, store them, and queue their tags.",
        items="questions",
        ring="hunting",
        interval_s=600,
        implementation="maia.hunter.cycle:Hunter",
        tables=("plan",),
    ),
    AgentRecord(
        name="tracker",
        about="Sample the videos that are due, compute how fast they grow, and report breakouts.",
        items="videos",
        ring="tracking",
        interval_s=600,
        implementation="maia.tracker.cycle:Tracker",
    ),
    AgentRecord(
        name="learner",
        about="Learn patterns from what the agents did, from host metrics and from view curves.",
        items="observations",
        ring=None,
        interval_s=1800,
        implementation="maia.learner.cycle:Learner",
        options={
            "full": "Also search the whole history for sequences, and forecast the last week's videos again.",
            "force": "Judge, forecast and advise again, even if there is nothing new to learn.",
        },
    ),
    AgentRecord(
        name="maintainer",
        about="Watch over everything: health, alerts, clean-up, backups, updates and reports.",
        items="duties",
        ring=None,
        interval_s=300,
        implementation="maia.maintainer.cycle:Maintainer",
        options={"apply": "Take the actions that are planned, of every kind, instead of only showing them."},
        choices={"only": "Run these duties now, such as health,cleanup, whether or not they are due."},
    ),
)
"""Every agent, in the order in which they are shown. To add an agent, add its record here."""


def agent_named(name: str) -> AgentRecord:
    """The record of the agent with that name; KeyError if there is none."""
    return {agent.name: agent for agent in AGENTS}[name]


def round_s(settings: Settings, name: str) -> float:
    """Seconds between an agent's runs, measured by its own clock: a virtual clock may run faster."""
    speed = settings.clock.speed if settings.clock.start else 1.0
    return intervals_s(settings.agents.intervals_s)[name] * speed


def intervals_s(differing: Mapping[str, float] = {}) -> dict[str, float]:
    """Seconds between runs, by agent, where the settings differ or as the registry says."""
    return {agent.name: differing.get(agent.name, agent.interval_s) for agent in AGENTS}
