"""Simulated probes: a host whose load, agents, services and PostgreSQL follow a script, sample by sample.

They give the same figures that the real probes gather, without any I/O, so that days pass in milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from atlas.adapters.health import HostLoad, ServerFigures, VaultQueue
from atlas.maintainer_settings import HealthSettings
from maia.maintenance.health import (
    Answer,
    Basis,
    Figures,
    HostWindow,
    Judgement,
    Queues,
    ServiceCondition,
    ServiceState,
    Watched,
    judge,
    known_afterwards,
)
from maia.maintenance.health_terms import MOST_SAMPLES
from maia.maintenance.server_rules import connections_percent

SERVER = ServerFigures(
    bytes=10 * 2**30, connections=20, most_connections=100, frozen_age=1_000_000, freeze_age=200_000_000
)
"""A PostgreSQL that is well."""


@dataclass
class SimulatedProbes:
    """The figures of one host. Set what a probe should find; `sample` is called for each sample taken.

    What must outlive a process is kept as the real system keeps it: samples, good cycles, and what the last
    judgement left. `restart` forgets nothing of that.
    """

    node: str = "host"
    limits: HealthSettings = field(default_factory=HealthSettings)
    agents: Mapping[str, float] = field(default_factory=dict)
    """Seconds between the runs of each agent."""
    duties: Mapping[str, float] = field(default_factory=dict)
    server: ServerFigures | None = SERVER
    services: dict[str, ServiceCondition] = field(default_factory=dict)
    queues: Queues = field(default_factory=lambda: Queues(expired={}, parked=0))
    vault: Answer = field(default_factory=lambda: Answer(True))
    loads: deque[HostLoad] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    good_at: dict[str, datetime] = field(default_factory=dict)
    since: datetime | None = None
    known: frozenset[str] = frozenset()
    percents: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def sample(
        self, now: datetime, *, cpu: float | None = 5.0, memory: float = 20.0, disk: float = 30.0
    ) -> None:
        """Take a sample of the host's load."""
        self.since = self.since or now
        self.loads.append(HostLoad(now, cpu, memory, disk))

    def succeed(self, now: datetime, *names: str) -> None:
        """Let cycles or duties succeed."""
        self.good_at |= dict.fromkeys(names, now)

    def figures(self, now: datetime) -> Figures:
        """What the probes find now."""
        host = HostWindow(
            node=self.node, first_at=self.since or now, last_at=self.loads[-1].at if self.loads else now,
            loads=tuple(self.loads),
        )  # fmt: skip
        return Figures(
            server=self.server,
            earlier_percent=tuple(self.percents),
            hosts=[host],
            queues=self.queues,
            ledger=[],
            agents=self._watched(self.agents),
            vault=self.vault,
            vault_queue=VaultQueue(0, None),
            services=[ServiceState(name, each, str(each)) for name, each in self.services.items()],
            duties=self._watched(self.duties),
            database_away=None if self.server is not None else "connection refused",
        )

    def judge(self, now: datetime, **changes: Any) -> Judgement:
        """Judge what the probes find, and keep what the next judgement needs; `changes` replace figures."""
        figures = replace(self.figures(now), **changes)
        judgement = judge(figures, Basis(now=now, limits=self.limits, known=self.known))
        self.known = known_afterwards(judgement, self.known)
        if figures.server is not None:
            self.percents.append(connections_percent(figures.server))
        return judgement

    def _watched(self, periods_s: Mapping[str, float]) -> list[Watched]:
        return [
            Watched(name=name, period_s=period_s, good_at=self.good_at.get(name), since=self.since)
            for name, period_s in periods_s.items()
        ]
