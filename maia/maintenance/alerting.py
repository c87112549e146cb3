"""Alerting, as a pure policy: what opens, what is over, and what people are told of now.

Each finding that matters is an incident from when it is first seen until it was not seen for a while. People
are told of what is new, of what became more severe, of what still lasts after the resend interval, and of
what is over, if they knew of it. They are not told of what another incident explains: it is only listed with
that one. In quiet hours they are told of errors only. What was held back is told of afterwards, if it still
lasts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from atlas.adapters.incidents import LONGEST_KEY, Incident
from atlas.adapters.incidents import Severity as IncidentSeverity
from atlas.config import Settings
from atlas.queries import clean_text
from maia.maintenance.causes import causes_of
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.windows import Windows

LOCAL: Final = frozenset({Component.SERVICES, Component.MAINTENANCE})
"""Components of which each host knows only its own part: what another host saw last, a host does not end."""

_LONGEST_TEXT: Final = 2000
_CLOCK_AHEAD: Final = timedelta(hours=1)
"""Times that are further ahead were noted by a clock that was wrong."""
_NEVER: Final = Windows((), ZoneInfo("UTC"))
_RANKS: Final[Mapping[str | None, int]] = {None: 0, "warning": 1, "error": 2}

Reason = Literal["new", "worse", "lasts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRules:
    """When people are told of what."""

    resend: timedelta
    settle: timedelta = timedelta()
    recovery_settle: timedelta = timedelta()
    recovery: bool = True
    forget: timedelta = timedelta(hours=48)
    """How long a host may be silent before others end its incidents."""
    quiet: Windows = _NEVER
    """The hours in which people are told of errors only."""

    @classmethod
    def of(cls, settings: Settings) -> AlertRules:
        """The rules that the settings give."""
        maintainer, alerts = settings.maintainer, settings.maintainer.alerts
        return cls(
            resend=timedelta(seconds=alerts.resend_s),
            settle=timedelta(seconds=alerts.settle_s),
            recovery_settle=timedelta(seconds=alerts.recovery_settle_s),
            recovery=alerts.recovery,
            forget=timedelta(hours=maintainer.health.forget_hosts_h),
            quiet=Windows.of(alerts.quiet_hours, maintainer.time_zone),
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The new states of all unfinished incidents, in three groups.

    People are to be told of `problems`, for the reasons by key, and that `recoveries` are over.
    """

    problems: tuple[Incident, ...]
    recoveries: tuple[Incident, ...]
    others: tuple[Incident, ...]
    reasons: Mapping[str, Reason]


def decide(
    findings: Iterable[Finding],
    incidents: Sequence[Incident],
    *,
    judged: Collection[Component],
    now: datetime,
    rules: AlertRules,
    node: str,
) -> Decision:
    """Decide from what is wrong now and the unfinished incidents, oldest first.

    Findings of components that are not among `judged` are ignored, and their incidents stay as they are.
    """
    seen = _worst_by_key(finding for finding in findings if finding.component in judged)
    open_, over = _updated(seen, incidents, judged, now, rules, node)
    problems, recoveries, others, reasons = [], [], [], {}
    for each in _with_causes(open_, {key: finding.hosts for key, finding in seen.items()}):
        reason = _reason_to_tell(each, now, rules) if each.key in seen else None
        if reason is None:
            others.append(each)
        else:
            problems.append(each)
            reasons[each.key] = reason
    for each in over:
        if each.key in seen and not each.is_claimed:
            # It is back: that it was over is of no use to anybody.
            others.append(replace(each, status="closed"))
        elif each.is_claimed or (tells := _tells_recovery(each, now, rules)) is None:
            others.append(each)
        elif tells:
            recoveries.append(each)
        else:
            others.append(replace(each, status="closed"))
    return Decision(tuple(problems), tuple(recoveries), tuple(others), reasons)


def _worst_by_key(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The findings that matter, the most severe one of each key."""
    worst: dict[str, Finding] = {}
    for finding in findings:
        key = clean_text(finding.key)[:LONGEST_KEY]
        if finding.severity is not Severity.INFO and (
            key not in worst or _RANKS[finding.severity] > _RANKS[worst[key].severity]
        ):
            worst[key] = finding
    return worst


# What opens, lasts and ends


def _updated(
    seen: Mapping[str, Finding],
    incidents: Sequence[Incident],
    judged: Collection[Component],
    now: datetime,
    rules: AlertRules,
    node: str,
) -> tuple[list[Incident], list[Incident]]:
    """The incidents that are open now, and those that are over."""
    open_, over = [], []
    reopened = _reopened(seen, incidents)
    for each in incidents:
        if each.status == "recovered" and each.id not in reopened:
            over.append(each)
        elif finding := seen.get(each.key):
            open_.append(_renewed(each, finding, now, node))
        elif each.component not in judged or _is_anothers(each, now, rules, node):
            open_.append(each)
        else:
            well_since = min(each.well_since or now, now)
            if now - well_since >= rules.recovery_settle:
                over.append(replace(each, status="recovered", well_since=well_since, recovered_at=now))
            else:
                open_.append(replace(each, well_since=well_since))
    known = {each.key for each in open_}
    open_ += [_opened(key, finding, now, node) for key, finding in seen.items() if key not in known]
    return open_, over


def _reopened(seen: Mapping[str, Finding], incidents: Sequence[Incident]) -> set[int]:
    """The incidents that go on, because they are seen again before people were told that they are over."""
    open_keys = {each.key for each in incidents if each.status == "open"}
    last = {
        each.key: each
        for each in incidents
        if each.status == "recovered" and each.key in seen and each.key not in open_keys
    }
    # If somebody is telling people, or may have told them, it is a new incident.
    return {each.id for each in last.values() if not (each.is_claimed or each.attempts)}


def _is_anothers(incident: Incident, now: datetime, rules: AlertRules, node: str) -> bool:
    return (
        incident.component in LOCAL and incident.node != node and abs(now - incident.seen_at) < rules.forget
    )


def _renewed(incident: Incident, finding: Finding, now: datetime, node: str) -> Incident:
    severity = _severity_of(finding)
    is_acknowledged = _RANKS[severity] <= _RANKS[incident.acknowledged_severity]
    return replace(
        incident,
        node=node,
        status="open",
        severity=severity,
        text=clean_text(finding.text)[:_LONGEST_TEXT],
        value=finding.value,
        limit_value=finding.limit,
        command=finding.command and clean_text(finding.command),
        seen_at=now,
        well_since=None,
        recovered_at=None,
        acknowledged_at=incident.acknowledged_at if is_acknowledged else None,
        acknowledged_severity=incident.acknowledged_severity if is_acknowledged else None,
    )


def _opened(key: str, finding: Finding, now: datetime, node: str) -> Incident:
    return Incident(
        key=key,
        component=finding.component,
        node=node,
        severity=_severity_of(finding),
        text=clean_text(finding.text)[:_LONGEST_TEXT],
        value=finding.value,
        limit_value=finding.limit,
        command=finding.command and clean_text(finding.command),
        opened_at=now,
        seen_at=now,
    )


def _severity_of(finding: Finding) -> IncidentSeverity:
    return "error" if finding.severity is Severity.ERROR else "warning"


def _with_causes(incidents: Sequence[Incident], hosts: Mapping[str, Collection[str]]) -> list[Incident]:
    causes = causes_of({each.key: _RANKS[each.severity] for each in incidents}, hosts)
    return [replace(each, cause=causes[each.key]) for each in incidents]


# What people are told


def _reason_to_tell(incident: Incident, now: datetime, rules: AlertRules) -> Reason | None:
    """Why to tell people of an incident that is seen now; None if they are not to be told now."""
    if incident.is_claimed or incident.cause or incident.acknowledged_at:
        return None
    is_warning = incident.severity == "warning"
    if is_warning and now in rules.quiet:
        return None
    if incident.announced_at is None:
        return None if is_warning and now - incident.opened_at < rules.settle else "new"
    if _RANKS[incident.severity] > _RANKS[incident.announced_severity]:
        return "worse"
    since = now - incident.announced_at
    # What was told far in the future was told by a clock that was ahead.
    return "lasts" if since >= rules.resend or since < -_CLOCK_AHEAD else None


def _tells_recovery(incident: Incident, now: datetime, rules: AlertRules) -> bool | None:
    """Whether to tell people that an incident is over; None if they are to be told, but not now.

    The end of an error is told of in quiet hours too, for whoever was woken by it.
    """
    knew = incident.announced_at or incident.acknowledged_at or incident.attempts
    if not knew or not rules.recovery:
        return False
    was_error = "error" in (incident.severity, incident.announced_severity)
    return None if now in rules.quiet and not was_error else True


def worst(incidents: Iterable[Incident]) -> IncidentSeverity:
    """The severity of the most severe incident, as it is or as people were told of it."""
    severities = [each for one in incidents for each in (one.severity, one.announced_severity)]
    return "error" if "error" in severities else "warning"
