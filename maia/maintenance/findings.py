"""Findings: what is wrong now, as the judgement of health says it and alerts are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Component(StrEnum):
    """The parts of the system whose health is judged."""

    DATABASE = "database"
    HOST = "host"
    """Processors, memory and disk of each host, and whether it is heard of."""
    QUEUES = "queues"
    LEDGER = "ledger"
    AGENTS = "agents"
    PREFECT = "prefect"
    VAULT = "vault"
    SERVICES = "services"
    """Units, containers and processes of maia up."""
    MAINTENANCE = "maintenance"
    """The maintainer's own duties: backups, clean-ups, updates."""


class Severity(StrEnum):
    """How much a finding matters. An error needs somebody now, a warning within working hours."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong now.

    `check` names the rule, such as "connections", and `subject` what it was found on, such as a node or an
    agent; together with the component they identify it over time. `text` is a sentence for people, and
    `command` what they could run next. `hosts` are those that did what is not done any more: nobody need look
    for another cause if all of them are silent.
    """

    component: Component
    check: str
    subject: str = ""
    severity: Severity
    text: str
    value: float | None = None
    limit: float | None = None
    command: str | None = None
    hosts: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What identifies the finding over time, such as "database.connections" or "host.disk:node-1"."""
        return f"{self.component}.{self.check}" + (f":{self.subject}" if self.subject else "")
