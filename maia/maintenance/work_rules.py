"""The rules for work: what counts as wrong with queues, quota, agents, duties, and what answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from atlas.adapters.health import VaultQueue
from atlas.clock import next_reset, pacific_day, pacific_midnight
from atlas.keyring import KeyState, KeyStatus, LedgerLine
from atlas.wording import counted
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health_terms import (
    UNREACHABLE,
    Answer,
    Basis,
    HostWindow,
    Queues,
    ServiceCondition,
    ServiceState,
    Watched,
)
from maia.maintenance.server_rules import is_away, is_late
from maia.maintenance.wording import shortened, span_text

_LEAST_BURNT_UNITS: Final = 50
_CONDITIONS: Final = {
    ServiceCondition.FAILED: "has failed",
    ServiceCondition.UNHEALTHY: "fails its check",
}
# By default a key rests after five failures, and each rest is twice as long: ten take half an hour.
_MANY_FAILURES: Final = 10
_VAULT_PATIENCE: Final = timedelta(hours=1)


# Queues and the ledger


def queue_findings(queues: Queues, basis: Basis) -> Iterator[Finding]:
    """Zones that lag, claims that nobody took over, and many parked topics."""
    limits = basis.limits
    for zone in queues.zones:
        yield from basis.too_high(
            Finding(
                component=Component.QUEUES,
                check="lag",
                subject=zone.zone,
                severity=Severity.WARNING,
                text=f"Samples of {zone.zone} videos are {span_text(zone.lag_h * 3600)} late, "
                f"{zone.lag_h / zone.interval_h:.1f} of their intervals.",
                value=zone.lag_h / zone.interval_h,
                limit=limits.lag_intervals,
                command="maia status",
            )
        )
    for agent, count in queues.expired.items():
        yield from basis.too_high(
            Finding(
                component=Component.QUEUES,
                check="expired_leases",
                subject=agent,
                severity=Severity.WARNING,
                text=f"{counted(count, 'claim')} of the {agent} expired within the last hour, and nobody has "
                "taken over: its processes die at work, and none goes on.",
                value=count,
                limit=limits.expired_leases,
                command=f"maia {agent} --direct",
            )
        )
    yield from basis.too_high(
        Finding(
            component=Component.QUEUES,
            check="parked",
            severity=Severity.WARNING,
            text=f"{counted(queues.parked, 'topic is', 'topics are')} parked after failing again and again.",
            value=queues.parked,
            limit=limits.parked_topics,
            command="maia queue list --status parked",
        )
    )


def ledger_findings(lines: Sequence[LedgerLine], basis: Basis) -> Iterator[Finding]:
    """Buckets that YouTube closed, keys that do not work, and rings that spend far ahead of the pace."""
    closed: dict[tuple[str, str], LedgerLine] = {}
    for line in lines:
        if line.closed_until is not None and line.closed_until > basis.now:
            closed.setdefault((line.project, line.bucket), line)
        yield from _burn(line, basis)
    for (project, bucket), line in closed.items():
        yield Finding(
            component=Component.LEDGER,
            check="closed",
            subject=f"{project}/{bucket}",
            severity=Severity.WARNING,
            text=f"YouTube closed the bucket {bucket} of {project} until {line.closed_until:%Y-%m-%d %H:%M} "
            f"UTC: {shortened(line.reason or 'no reason given')}",
            command="maia keys",
        )
    yield from _keys(lines)


def _burn(line: LedgerLine, basis: Basis) -> Iterator[Finding]:
    """Units that a ring spent, as a multiple of what its pace has released by now."""
    begins, ends = pacific_midnight(pacific_day(basis.now)), next_reset(basis.now)
    passed = (basis.now - begins) / (ends - begins)
    released = line.ring_limit * min(1.0, passed + basis.burst)
    spent = line.used + line.reserved
    if spent < _LEAST_BURNT_UNITS or released < 1:
        return
    yield from basis.too_high(
        Finding(
            component=Component.LEDGER,
            check="burn",
            subject=f"{line.project}/{line.bucket}/{line.ring}",
            severity=Severity.WARNING,
            text=f"The ring {line.ring} has spent {spent:,} units of {line.bucket}, {spent / released:.1f} "
            f"times what an even pace has released by now ({released:,.0f}).",
            value=spent / released,
            limit=basis.limits.burn,
            command="maia keys",
        )
    )


def _keys(lines: Sequence[LedgerLine]) -> Iterator[Finding]:
    """Keys that are disabled, or that nothing has succeeded with for long."""
    keys = {key.fingerprint: key for line in lines for key in line.keys}
    useless = [key for key in keys.values() if key.state is KeyState.DISABLED or _keeps_failing(key)]
    for key in useless:
        is_disabled = key.state is KeyState.DISABLED
        what = "is disabled" if is_disabled else f"has failed {counted(key.failures, 'time')} in a row"
        yield Finding(
            component=Component.LEDGER,
            check="key",
            subject=key.fingerprint,
            severity=Severity.ERROR if len(useless) == len(keys) else Severity.WARNING,
            text=f"The API key {key.fingerprint} {what}: {shortened(key.reason or 'no reason given')}",
            command=f"maia keys --enable {key.fingerprint}" if is_disabled else "maia keys",
        )


def _keeps_failing(key: KeyStatus) -> bool:
    return key.state in (KeyState.OPEN, KeyState.HALF_OPEN) and key.failures >= _MANY_FAILURES


# What should succeed again and again: agents and duties


def agent_findings(agents: Iterable[Watched], hosts: Iterable[HostWindow], basis: Basis) -> Iterator[Finding]:
    """Agents without a good cycle for too long, on any host: dead-man switches with a period and a grace.

    If every host that ran an agent has missed its heartbeat, the agent waits until it is known whether these
    are silent, since people are told only of them then.
    """
    are_away = {host.node: is_away(host, basis) for host in hosts if is_late(host, basis)}
    for agent in agents:
        late = overdue(agent, basis)
        waits = are_away.keys() >= {*agent.hosts} and not all(are_away[host] for host in agent.hosts)
        if late is None or waits:
            continue
        how = f" It ran on {shortened(', '.join(agent.hosts))}." if agent.hosts else ""
        how += f" The last one: {shortened(agent.last)}" if agent.last else ""
        ever = (
            f"The {agent.name} has had no good cycle for {span_text(late)}"
            if agent.good_at
            else f"The {agent.name} has never completed a cycle in {span_text(late)}"
        )
        yield Finding(
            component=Component.AGENTS,
            check="silent",
            subject=agent.name,
            severity=Severity.ERROR if agent.good_at else Severity.WARNING,
            text=f"{ever}; one is due every {span_text(agent.period_s)}.{how}",
            value=late.total_seconds(),
            limit=basis.allowed(agent.period_s).total_seconds(),
            command=f"maia {agent.name} --direct",
            hosts=agent.hosts,
        )


def duty_findings(duties: Iterable[Watched], basis: Basis) -> Iterator[Finding]:
    """Duties of the maintainer that were not done for too long, or that failed the last time."""
    for duty in duties:
        late = overdue(duty, basis)
        if late is None and duty.last is None:
            continue
        done = f"was last done {span_text(late)} ago" if late and duty.good_at else "was never done"
        yield Finding(
            component=Component.MAINTENANCE,
            check="failed" if late is None else "overdue",
            subject=duty.name,
            severity=Severity.WARNING,
            text=f"The duty {duty.name} failed: {shortened(duty.last or '')}"
            if late is None
            else f"The duty {duty.name} {done}; it is due every {span_text(duty.period_s)}."
            + (f" The last run failed: {shortened(duty.last)}" if duty.last else ""),
            value=None if late is None else late.total_seconds(),
            limit=basis.allowed(duty.period_s).total_seconds(),
            command=f"maia maintainer --only {duty.name}",
        )


def overdue(watched: Watched, basis: Basis) -> timedelta | None:
    """How long ago it last succeeded, if that is too long ago; if it never did, since it could have.

    A success that lies in the future, because a clock was set back, counts as one just now.
    """
    began = watched.good_at or watched.since
    if began is None:
        return None
    age = basis.now - began
    return age if age > basis.allowed(watched.period_s) else None


# What answers, or does not


def prefect_findings(answer: Answer) -> Iterator[Finding]:
    """Whether Prefect's server answers."""
    if not answer.ok:
        yield Finding(
            component=Component.PREFECT,
            check=UNREACHABLE,
            severity=Severity.ERROR,
            text=f"Prefect's server does not answer: {shortened(answer.text)}",
            command="maia doctor",
        )


def vault_findings(
    answer: Answer | None, queue: VaultQueue | None, basis: Basis, *, required: bool
) -> Iterator[Finding]:
    """Whether the vault answers, and whether objects wait for it for long."""
    if answer is not None and not answer.ok:
        yield Finding(
            component=Component.VAULT,
            check=UNREACHABLE,
            severity=Severity.ERROR if required else Severity.WARNING,
            text=f"The vault does not answer: {shortened(answer.text)}",
            command="maia doctor",
        )
    if queue is None or queue.oldest_at is None or not queue.objects:
        return
    age = basis.now - queue.oldest_at
    yield from basis.too_high(
        Finding(
            component=Component.VAULT,
            check="waiting",
            severity=Severity.WARNING,
            text=f"{counted(queue.objects, 'object waits', 'objects wait')} for the vault, the oldest for "
            f"{span_text(age)}.",
            value=age.total_seconds(),
            limit=_VAULT_PATIENCE.total_seconds() * basis.speed,
            command="maia doctor",
        )
    )


def service_findings(services: Iterable[ServiceState]) -> Iterator[Finding]:
    """Units, containers and processes that failed, or that run but fail their check."""
    for service in services:
        if service.condition in _CONDITIONS:
            yield Finding(
                component=Component.SERVICES,
                check=service.condition.value,
                subject=service.name,
                severity=Severity.ERROR,
                text=f"{service.name} {_CONDITIONS[service.condition]}: {shortened(service.text)}",
                command=service.command,
            )
