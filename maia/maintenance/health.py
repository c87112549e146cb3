"""The judgement of health: from figures to findings, and from findings to scores in [0, 1]. Pure.

A component's score is a product: each warning takes a fifth of it, each error three fifths. The score of all
is the geometric mean of the worst component and the mean of all, so that neither one part that is down nor
many that are ailing can hide. Only what is measured now counts, so a score recovers with its cause.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Final

from atlas.adapters.health import ServerFigures, VaultQueue
from atlas.adapters.upkeep import BloatedTable, IndexToMend
from atlas.keyring import LedgerLine
from maia.maintenance import server_rules, work_rules
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health_terms import (
    UNREACHABLE,
    Answer,
    Basis,
    Growth,
    HostWindow,
    Queues,
    ServiceCondition,
    ServiceState,
    Watched,
    ZoneLag,
)
from maia.maintenance.wording import shortened

__all__ = [
    "Answer", "Basis", "ComponentHealth", "Figures", "Growth", "HostWindow", "Judgement", "Queues",
    "ServiceCondition", "ServiceState", "Watched", "ZoneLag", "judge", "overall_score", "score_of",
]  # fmt: skip

PROBE: Final = "probe"
"""The check that says that figures of a component could not be had: the maintainer's own trouble."""

_LEFT: Final[Mapping[Severity, float]] = {Severity.INFO: 1.0, Severity.WARNING: 0.8, Severity.ERROR: 0.4}
_NOTHING_WORKS: Final = f"{Component.DATABASE}.{UNREACHABLE}"
_ORDER: Final = (Severity.ERROR, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was gathered. None means that it is not set up here, or could not be had: it is not judged.

    `failed` are the components of which some figure could not be had, with the reason. `earlier_percent` are
    the last uses of PostgreSQL's connections, oldest first.
    """

    server: ServerFigures | None = None
    earlier_percent: Sequence[float] = ()
    growth_since: Growth | None = None
    cannot_store: str | None = None
    """Why PostgreSQL answers, but can't store anything."""
    tables: Sequence[BloatedTable] = ()
    indexes: Sequence[IndexToMend] = ()
    hosts: Sequence[HostWindow] | None = None
    queues: Queues | None = None
    ledger: Sequence[LedgerLine] | None = None
    agents: Sequence[Watched] | None = None
    prefect: Answer | None = None
    vault: Answer | None = None
    vault_queue: VaultQueue | None = None
    vault_required: bool = False
    services: Sequence[ServiceState] | None = None
    duties: Sequence[Watched] | None = None
    database_away: str | None = None
    """Why PostgreSQL does not answer; then nothing that depends on it is judged."""
    failed: Mapping[Component, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """A component's score (None: not judged), and what is wrong with it, worst first."""

    component: Component
    score: float | None
    findings: tuple[Finding, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(finding.text for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The health of everything at one moment.

    `settled` are the components of which every figure could be had: only there does a finding that is missing
    mean that nothing is wrong any more. The maintainer's failing to measure something is always seen.
    """

    score: float
    components: tuple[ComponentHealth, ...]
    settled: frozenset[Component]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong, worst first."""
        return worst_first(finding for each in self.components for finding in each.findings)

    @property
    def is_healthy(self) -> bool:
        """Whether nothing needs anybody now; warnings can wait."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def judge(figures: Figures, basis: Basis) -> Judgement:
    """Judge figures; a component is judged if there is a figure of it, or if getting one failed."""
    found = tuple(_findings(figures, basis))
    judged = _judged(figures) | {finding.component for finding in found}
    failed = set(figures.failed) | ({Component.DATABASE} if figures.database_away else set())
    components = tuple(_component(component, found, component in judged) for component in Component)
    return Judgement(overall_score(components), components, frozenset(_judged(figures) - failed))


def known_afterwards(judgement: Judgement, known: Collection[str]) -> frozenset[str]:
    """The keys of the findings that the next judgement should know of.

    What was known of a component that could not be judged stays known.
    """
    settled = tuple(f"{component}." for component in judgement.settled)
    kept = {key for key in known if not key.startswith(settled)} if settled else set(known)
    return frozenset(kept | {finding.key for finding in judgement.findings})


def _judged(figures: Figures) -> set[Component]:
    by_component: Mapping[Component, object | None] = {
        Component.DATABASE: figures.server,
        Component.HOST: figures.hosts,
        Component.QUEUES: figures.queues,
        Component.LEDGER: figures.ledger,
        Component.AGENTS: figures.agents,
        Component.PREFECT: figures.prefect,
        Component.VAULT: figures.vault or figures.vault_queue,
        Component.SERVICES: figures.services,
        Component.MAINTENANCE: figures.duties,
    }
    return {component for component, figure in by_component.items() if figure is not None}


def _findings(figures: Figures, basis: Basis) -> Iterator[Finding]:
    if figures.server is not None:
        yield from server_rules.database_findings(
            figures.server, figures.earlier_percent, figures.growth_since, basis
        )
    if figures.cannot_store is not None:
        yield from server_rules.storing_findings(figures.cannot_store)
    yield from server_rules.table_findings(figures.tables, figures.indexes, basis)
    yield from server_rules.host_findings(figures.hosts or (), basis)
    if figures.queues is not None:
        yield from work_rules.queue_findings(figures.queues, basis)
    yield from work_rules.ledger_findings(figures.ledger or (), basis)
    yield from work_rules.agent_findings(figures.agents or (), figures.hosts or (), basis)
    if figures.prefect is not None:
        yield from work_rules.prefect_findings(figures.prefect)
    yield from work_rules.vault_findings(
        figures.vault, figures.vault_queue, basis, required=figures.vault_required
    )
    yield from work_rules.service_findings(figures.services or ())
    yield from work_rules.duty_findings(figures.duties or (), basis)
    if figures.database_away is not None:
        yield Finding(
            component=Component.DATABASE,
            check=UNREACHABLE,
            severity=Severity.ERROR,
            text=f"PostgreSQL does not answer: {shortened(figures.database_away)}",
            command="maia doctor",
        )
    for component, reason in figures.failed.items():
        yield Finding(
            component=Component.MAINTENANCE,
            check=PROBE,
            subject=component.value,
            severity=Severity.WARNING,
            text=f"Not everything about {component} could be measured: {shortened(reason)}",
            command="maia doctor",
        )


def _component(component: Component, found: Iterable[Finding], judged: bool) -> ComponentHealth:
    if not judged:
        return ComponentHealth(component, None)
    findings = worst_first(finding for finding in found if finding.component is component)
    return ComponentHealth(component, score_of(findings), findings)


# Scores


def score_of(findings: Iterable[Finding]) -> float:
    """The score of a component with these findings; without PostgreSQL nothing works, so it has 0 then."""
    return prod(0.0 if each.key == _NOTHING_WORKS else _LEFT[each.severity] for each in findings)


def overall_score(components: Sequence[ComponentHealth]) -> float:
    """The score of all; components that are not judged take nothing away."""
    scores = [1.0 if each.score is None else each.score for each in components]
    return sqrt(min(scores) * sum(scores) / len(scores)) if scores else 1.0


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by severity, and otherwise in a fixed order."""
    return tuple(sorted(findings, key=lambda each: (_ORDER.index(each.severity), each.key)))
