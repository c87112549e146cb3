"""The words of alerts: one message for all that people are to be told of at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from atlas.adapters.incidents import Incident, Severity
from atlas.wording import counted
from maia.maintenance.alerting import Reason, worst
from maia.maintenance.wording import shortened, span_text

_MOST_LINES: Final = 20
_MOST_EFFECTS: Final = 5
_STILL: Final[Mapping[Reason, str]] = {"new": "", "worse": " (now an error)", "lasts": " (still)"}


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent to people; `level` is that of the most severe incident in it."""

    title: str
    body: str
    level: Severity


def problems(
    incidents: Sequence[Incident], reasons: Mapping[str, Reason], effects: Iterable[Incident], now: datetime
) -> Message:
    """One message for incidents that people are told of, each with those that it explains."""
    explained: dict[str, list[Incident]] = {}
    for effect in effects:
        if effect.cause:
            explained.setdefault(effect.cause, []).append(effect)
    ordered = sorted(incidents, key=lambda each: (each.severity != "error", each.opened_at, each.key))
    lines = [
        line for each in ordered for line in _lines(each, reasons[each.key], explained.get(each.key, []), now)
    ]
    level: Severity = "error" if any(each.severity == "error" for each in incidents) else "warning"
    return Message(_title(ordered, reasons), "\n".join(_cut(lines)), level)


def recoveries(incidents: Sequence[Incident]) -> Message:
    """One message for incidents that are over."""
    ordered = sorted(incidents, key=lambda each: (each.opened_at, each.key))
    one = ordered[0].key if len(ordered) == 1 else f"{len(ordered)} incidents are over"
    lines = _cut([_recovered(each) for each in ordered])
    return Message(f"Recovered: {one}", "\n".join(lines), worst(ordered))


def _title(incidents: Sequence[Incident], reasons: Mapping[str, Reason]) -> str:
    if len(incidents) == 1:
        [one] = incidents
        return f"{one.severity.capitalize()}: {one.key}{_STILL[reasons[one.key]]}"
    counts = Counter(each.severity for each in incidents)
    told = [counted(count, name) for name, count in counts.items()]
    return f"{' and '.join(told)}: {', '.join(each.key for each in incidents[:3])}" + (
        f" and {len(incidents) - 3} more" if len(incidents) > 3 else ""
    )


def _lines(incident: Incident, reason: Reason, effects: Sequence[Incident], now: datetime) -> Iterable[str]:
    since = f" (for {span_text(now - incident.opened_at)})" if reason != "new" else ""
    yield f"{incident.severity}: {_without_stop(incident.text)}{since} [{incident.key}]"
    if incident.command:
        yield f"  Next: {incident.command}"
    if effects:
        names = ", ".join(each.key for each in effects[:_MOST_EFFECTS])
        more = f" and {len(effects) - _MOST_EFFECTS} more" if len(effects) > _MOST_EFFECTS else ""
        yield f"  Probably because of it: {names}{more}"


def _recovered(incident: Incident) -> str:
    ended = incident.well_since or incident.recovered_at or incident.seen_at
    lasted = f"{span_text(ended - incident.opened_at)}, from {incident.opened_at:%Y-%m-%d %H:%M} UTC"
    return f"{incident.key} lasted {lasted}: {_without_stop(incident.text)}"


def _cut(lines: Sequence[str]) -> list[str]:
    if len(lines) <= _MOST_LINES:
        return list(lines)
    return [*lines[: _MOST_LINES - 1], "And more: maia alerts lists all."]


def _without_stop(text: str) -> str:
    return shortened(text.rstrip("."))
