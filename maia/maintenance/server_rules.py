"""The rules for servers: what counts as wrong with PostgreSQL and with hosts. Pure: figures to findings.

A figure that is known to be too high counts as such until it is clearly lower again, so that nothing flaps
that wavers around its limit. What is measured often (the load of hosts, connections) must be too high in N of
M samples; whatever is long by nature, such as a lag, counts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from atlas.adapters.health import HostLoad, ServerFigures
from atlas.adapters.upkeep import BloatedTable, IndexToMend
from atlas.maintainer_settings import HealthSettings
from atlas.wording import counted
from maia.learning.thresholds import ThresholdDetector, ThresholdSettings
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health_terms import EMERGENCY, PASSING, WINDOW, Basis, Growth, HostWindow
from maia.maintenance.wording import quoted, shortened, size_text, span_text

_NO_CONNECTION_LEFT_PERCENT: Final = 95.0
_LEAST_GROWTH_BYTES: Final = 512 * 2**20
_HELD_TRANSACTIONS: Final = 10_000_000
_FROZEN_LATE: Final = 2.0
"""By how much, relative to the age from which vacuum is forced, vacuum must be behind to be a warning."""
_WRAPAROUND_AGE: Final = 1_200_000_000
"""PostgreSQL refuses writes at about 2.1 billion."""
_PARTITION_AHEAD: Final = timedelta(hours=2)
"""So long before a day begins, its partition should exist."""
_CLOCK_AHEAD: Final = timedelta(minutes=5)


# PostgreSQL


def database_findings(
    server: ServerFigures, earlier_percent: Sequence[float], then: Growth | None, basis: Basis
) -> Iterator[Finding]:
    """What PostgreSQL's own figures tell; `earlier_percent` are the uses of connections, oldest first."""
    if server.is_read_only:
        yield from storing_findings("the server is a standby, or default_transaction_read_only is on")
    yield from _connections(server, earlier_percent, basis)
    yield from _transaction(server, basis)
    yield from _horizon(server, basis)
    yield from _missing_partition(server, basis)
    if then is not None:
        yield from _growth(server, then, basis)


def storing_findings(why: str) -> Iterator[Finding]:
    """PostgreSQL answers, but nothing can be stored."""
    yield Finding(
        component=Component.DATABASE,
        check="cannot_store",
        severity=Severity.ERROR,
        text=f"PostgreSQL can't store anything: {shortened(why)}",
        command="maia doctor",
    )


def connections_percent(server: ServerFigures) -> float:
    """How much of the connections that others may open is in use."""
    return 100 * server.connections / max(server.most_connections, 1)


def _connections(server: ServerFigures, earlier: Sequence[float], basis: Basis) -> Iterator[Finding]:
    used, limits = connections_percent(server), basis.limits
    limit = limits.connections_percent
    scarce = used >= _NO_CONNECTION_LEFT_PERCENT
    finding = Finding(
        component=Component.DATABASE,
        check="connections",
        severity=Severity.ERROR if scarce else Severity.WARNING,
        text=f"{server.connections} of PostgreSQL's {server.most_connections} connections are in use.",
        value=used,
        limit=limit,
        command="maia doctor",
    )
    if scarce or is_high([*earlier, used], limit, limits, was_high=finding.key in basis.known):
        yield finding


def _transaction(server: ServerFigures, basis: Basis) -> Iterator[Finding]:
    open_ = server.transaction
    if open_ is None:
        return
    whose = f"{quoted(open_.program)} (process {open_.pid})" if open_.program else f"process {open_.pid}"
    # A dump must see one state of everything, however long it takes.
    dumps = open_.program.startswith("pg_dump")
    yield from basis.too_high(
        Finding(
            component=Component.DATABASE,
            check="long_transaction",
            severity=Severity.INFO if dumps else Severity.WARNING,
            text=f"A transaction of {whose} has been open for {span_text(open_.age_s)} ({open_.state}): "
            "while it is, dead rows stay, and agents get slower.",
            value=open_.age_s,
            limit=basis.limits.long_transaction_s,
            command=None if dumps else f'psql "$DATABASE_URL" -c "SELECT pg_terminate_backend({open_.pid})"',
        )
    )


def _horizon(server: ServerFigures, basis: Basis) -> Iterator[Finding]:
    if server.holder is not None:
        yield from basis.too_high(
            Finding(
                component=Component.DATABASE,
                check="held_rows",
                subject=server.holder.name,
                severity=Severity.WARNING,
                text=f"The {server.holder.kind} {quoted(server.holder.name)} keeps dead rows of the last "
                f"{server.holder.age:,} transactions: drop it, if nothing needs it any more.",
                value=server.holder.age,
                limit=_HELD_TRANSACTIONS,
            )
        )
    limit = min(server.freeze_age * _FROZEN_LATE, _WRAPAROUND_AGE)
    yield from basis.too_high(
        Finding(
            component=Component.DATABASE,
            check="unfrozen",
            severity=Severity.ERROR if server.frozen_age >= _WRAPAROUND_AGE else Severity.WARNING,
            text=f"The oldest transaction id is {server.frozen_age:,} transactions old: vacuum is behind, "
            "and PostgreSQL stops writing at 2.1 billion.",
            value=server.frozen_age,
            limit=limit,
            command="maia system cleanup",
        )
    )


def _missing_partition(server: ServerFigures, basis: Basis) -> Iterator[Finding]:
    """Tomorrow's, if samples are stored: while none are, none is needed, and the first one makes its own."""
    if (day := server.missing_day) is not None:
        begins = datetime(day.year, day.month, day.day, tzinfo=UTC)
        soon = begins - basis.now <= _PARTITION_AHEAD * basis.speed
        yield Finding(
            component=Component.DATABASE,
            check="missing_partition",
            subject=day.isoformat(),
            severity=Severity.WARNING if soon else Severity.INFO,
            text=f"Samples are being stored, but those of {day} have no partition yet: the tracker makes it "
            "in each cycle, and its log says why it can't.",
            command="maia system cleanup --only partitions --apply",
        )


def _growth(server: ServerFigures, then: Growth, basis: Basis) -> Iterator[Finding]:
    days = (basis.now - then.at) / timedelta(days=1)
    grown = server.bytes - then.bytes
    if days <= 0 or then.bytes <= 0 or grown < _LEAST_GROWTH_BYTES:
        return
    per_day = grown / then.bytes / days
    yield from basis.too_high(
        Finding(
            component=Component.DATABASE,
            check="growth",
            severity=Severity.WARNING,
            text=f"The database grows by {100 * per_day:.0f} % a day: it has {size_text(server.bytes)}, "
            f"{size_text(grown)} more than {span_text(days * 86_400)} ago.",
            value=per_day,
            limit=basis.limits.growth_per_day,
            command="maia system cleanup",
        )
    )


def table_findings(
    tables: Sequence[BloatedTable], indexes: Sequence[IndexToMend], basis: Basis
) -> Iterator[Finding]:
    """Tables with many dead rows, and indexes that failed builds left behind."""
    for table in tables:
        yield from basis.too_high(
            Finding(
                component=Component.DATABASE,
                check="dead_rows",
                subject=table.name,
                severity=Severity.INFO if table.is_vacuumed else Severity.WARNING,
                text=f"{100 * table.dead_share:.0f} % of the rows of {table.name} are dead ({table.dead:,})"
                + ("; it is being vacuumed." if table.is_vacuumed else "."),
                value=table.dead_share,
                limit=basis.limits.dead_rows,
                command="maia system cleanup",
            )
        )
    for index in indexes:
        yield Finding(
            component=Component.DATABASE,
            check="invalid_index",
            subject=index.name,
            severity=Severity.WARNING,
            text=f"The index {index.name} of {index.table} is invalid ({size_text(index.bytes)}): a build "
            "of it failed. It serves no read and slows every write.",
            command="maia system cleanup",
        )


# Hosts

_LIMITED: Final = {
    "cpu": ("cpu_percent", "The processor of {node} is {value:.0f} % busy"),
    "memory": ("memory_percent", "The memory of {node} is {value:.0f} % full"),
    "disk": ("disk_percent", "The disk of {node} is {value:.0f} % full"),
}
"""What has a limit on each host, by check: the figure, and how it is told."""


def host_findings(hosts: Iterable[HostWindow], basis: Basis) -> Iterator[Finding]:
    """Hosts that are silent or whose clocks are ahead, and those that work at their limits."""
    passing: dict[str, list[Finding]] = {}
    for host in hosts:
        silent = list(_silence(host, basis))
        yield from silent
        if silent or is_away(host, basis):
            continue
        for finding in load_findings(host.node, host.loads, basis):
            if _is_lasting(host, basis):
                yield finding
            else:
                passing.setdefault(finding.check, []).append(finding)
    for findings in passing.values():
        yield _as_one(findings)


def _as_one(findings: Sequence[Finding]) -> Finding:
    """What is wrong on hosts that have just appeared: if these are many, they would be new ones each time."""
    worst = max(findings, key=lambda finding: finding.value or 0)
    if len(findings) == 1:
        return worst
    more = counted(len(findings) - 1, "more host")
    text = f"{worst.text} The same holds for {more} that just appeared."
    return replace(worst, subject=PASSING, text=text)


def _interval(basis: Basis) -> timedelta:
    return timedelta(seconds=basis.limits.host_interval_s * basis.speed)


def _is_lasting(host: HostWindow, basis: Basis) -> bool:
    """Whether a host is expected to be heard of again: a container that did one job is gone for good."""
    return host.last_at - host.first_at >= 2 * _interval(basis)


def is_away(host: HostWindow, basis: Basis) -> bool:
    """Whether a host was not heard of for too long."""
    return basis.now - host.last_at > _interval(basis) + basis.grace


def is_late(host: HostWindow, basis: Basis) -> bool:
    """Whether a host that should be heard of has missed its heartbeat."""
    return _is_lasting(host, basis) and basis.now - host.last_at > _interval(basis)


def _silence(host: HostWindow, basis: Basis) -> Iterator[Finding]:
    limits = basis.limits
    age = basis.now - host.last_at
    if age < -_CLOCK_AHEAD * basis.speed:
        yield Finding(
            component=Component.HOST,
            check="clock",
            subject=host.node,
            severity=Severity.WARNING,
            text=f"The clock of {host.node} is {span_text(-age)} ahead: set it right (NTP), as "
            "schedules and samples depend on it.",
            command="maia doctor",
        )
    is_forgotten = age > timedelta(hours=limits.forget_hosts_h) * basis.speed
    if _is_lasting(host, basis) and not is_forgotten and is_away(host, basis):
        yield Finding(
            component=Component.HOST,
            check="silent",
            subject=host.node,
            severity=Severity.ERROR,
            text=f"{host.node} has not been heard of for {span_text(age)}.",
            value=age.total_seconds(),
            limit=(_interval(basis) + basis.grace).total_seconds(),
            command=f"maia metrics show --node {host.node}",
        )


def load_findings(node: str, loads: Sequence[HostLoad], basis: Basis) -> Iterator[Finding]:
    """What of a host's load is too high, by its samples in the present window; oldest first."""
    limits = basis.limits
    within = [load for load in loads if basis.now - load.at <= WINDOW * basis.speed]
    for check, (figure, told) in _LIMITED.items():
        values = [value for load in within if (value := getattr(load, figure)) is not None]
        limit: float = getattr(limits, figure)
        if not values:
            continue
        finding = Finding(
            component=Component.HOST,
            check=check,
            subject=node,
            severity=Severity.WARNING,
            text=told.format(node=node, value=values[-1]) + _by_limit(values[-1], limit),
            value=values[-1],
            limit=limit,
            command=f"maia metrics show --node {node}",
        )
        if is_high(values, limit, limits, was_high=finding.key in basis.known):
            yield finding
    yield from _disk_emergency(node, within, basis)


def _by_limit(value: float, limit: float) -> str:
    return f" (limit {limit:g} %)." if value >= limit else f", and was over {limit:g} % before."


def _disk_emergency(node: str, loads: Sequence[HostLoad], basis: Basis) -> Iterator[Finding]:
    """A disk that is nearly full: one sample is enough, as it can't wait for more."""
    values = [load.disk_percent for load in loads if load.disk_percent is not None]
    if not values:
        return
    limit = basis.limits.emergency_disk_percent
    yield from basis.too_high(
        Finding(
            component=Component.HOST,
            check=EMERGENCY,
            subject=node,
            severity=Severity.ERROR,
            text=f"The disk of {node} is {values[-1]:.1f} % full: soon nothing can be stored any more.",
            value=values[-1],
            limit=limit,
            command="maia system cleanup",
        ),
        basis.limits.clear_below(limit) / limit,
    )


def is_high(values: Sequence[float], limit: float, limits: HealthSettings, *, was_high: bool = False) -> bool:
    """Whether a percentage is too high at the end of a series, by N of M values and with hysteresis.

    It needs no state but the series and how it was last judged: once M values in a row are under the limit
    and the last N of them are clearly under it, nothing earlier matters. What was high stays so while all of
    the series lies in between.
    """
    settings = ThresholdSettings(
        raise_at=limit,
        clear_below=limits.clear_below(limit),
        needed=limits.needed,
        window=limits.window,
    )
    return _ends_high(settings, values) or (was_high and _ends_high(settings, values, begins_high=True))


def _ends_high(settings: ThresholdSettings, values: Iterable[float], *, begins_high: bool = False) -> bool:
    detector = ThresholdDetector(settings)
    detector.is_high = begins_high
    for value in values:
        detector.update(value)
    return detector.is_high
