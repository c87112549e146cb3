"""Reads what happened in a week, from totals and bounded queries, and makes a report of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from maia.views.report import (
    ActionOfWeek,
    AgentOfWeek,
    ArmOfWeek,
    ComponentHealth,
    DutyOfWeek,
    ForecastOfWeek,
    HostFigures,
    IncidentOfWeek,
    LearntOfWeek,
    LearntPattern,
    OpenSuggestion,
    QuotaOfWeek,
    Report,
    Riser,
    Totals,
    ZoneOfWeek,
)
from maia.views.words import ATTRIBUTION, ZONES, video_url

if TYPE_CHECKING:
    from atlas.adapters.incidents import Incident
    from atlas.adapters.reports import (
        CyclesEnded,
        DueOfDay,
        Gain,
        ReportsDAO,
        ScoreOfDay,
        UnitsOfDay,
        YieldOfDay,
    )
    from atlas.composition import Atlas
    from maia.views.weeks import Week

PARTS: Final = 28
"""A riser's growth is given for each quarter of a day."""
_GOOD: Final = frozenset({"done", "idle", "closed"})
_MOST_PATTERNS: Final = 5
_MOST_SUGGESTIONS: Final = 30
_MOST_INCIDENTS: Final = 50
_MOST_DEEDS: Final = 40
_MOST_LOOKED_AT: Final = 1_000
_T = TypeVar("_T")


async def report(atlas: Atlas, week: Week, agents: Sequence[str]) -> Report:
    """Read what happened in a week, with the cycles of these agents."""
    from atlas.adapters.reports import ReportsDAO

    dao = ReportsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    zone, now = atlas.settings.maintainer.time_zone, atlas.clock.now()
    begins_at, ends_at = week.span(zone)
    actions, more_actions = await _actions(atlas, begins_at, ends_at)
    yields = await dao.yields(week.days[0], week.days[-1])
    units = await dao.quota(week.days[0], week.days[-1])
    cycles = await dao.cycles(agents, begins_at, ends_at)
    return Report(
        week=str(week),
        begins_at=begins_at,
        ends_at=ends_at,
        made_at=now,
        time_zone=zone,
        is_complete=now >= ends_at,
        attribution=f"Every figure here is {ATTRIBUTION}, except counts of views.",
        days=week.days,
        totals=_totals(yields, units, cycles),
        before=await _before(dao, week.before, agents, zone),
        arms=_arms(yields, week.days),
        risers=await _risers(atlas, dao, begins_at, ends_at),
        quota=await _quota(atlas, units, week.days),
        zones=_zones(await dao.due(begins_at, ends_at, zone), week.days),
        agents=_agents(cycles, agents),
        hosts=await _hosts(dao, begins_at, ends_at),
        health=_health(await dao.health(begins_at, ends_at, zone), week.days),
        incidents=await _incidents(atlas, begins_at, ends_at),
        actions=actions,
        more_actions=more_actions,
        duties=tuple(
            DutyOfWeek(each.duty, each.runs, each.failed, each.summary or "")
            for each in await dao.duties(begins_at, ends_at)
        ),
        learnt=await _learnt(atlas, dao, begins_at, ends_at),
        suggestions=await _suggestions(atlas),
        forecasts=await _forecasts(atlas, begins_at, ends_at),
    )


async def _before(dao: ReportsDAO, week: Week, agents: Sequence[str], zone: str) -> Totals:
    yields = await dao.yields(week.days[0], week.days[-1])
    units = await dao.quota(week.days[0], week.days[-1])
    return _totals(yields, units, await dao.cycles(agents, *week.span(zone)))


def _totals(
    yields: Iterable[YieldOfDay], units: Iterable[UnitsOfDay], cycles: Iterable[CyclesEnded]
) -> Totals:
    yields, cycles = list(yields), list(cycles)
    return Totals(
        found=sum(each.found for each in yields),
        new=sum(each.new for each in yields),
        early=sum(each.early for each in yields),
        growing=sum(each.growing for each in yields),
        samples=sum(each.samples for each in cycles),
        breakouts=sum(each.breakouts for each in cycles),
        units=sum(each.used for each in units),
        cycles=sum(each.cycles for each in cycles),
    )


def _grouped(rows: Iterable[_T], key: Callable[[_T], Any]) -> dict[Any, list[_T]]:
    groups: defaultdict[Any, list[_T]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def _arms(yields: Sequence[YieldOfDay], days: Sequence[date]) -> tuple[ArmOfWeek, ...]:
    arms = [_arm(arm, rows, days) for arm, rows in _grouped(yields, lambda each: each.arm).items()]
    return tuple(sorted(arms, key=lambda each: (-each.new, each.arm)))


def _arm(arm: str, rows: Sequence[YieldOfDay], days: Sequence[date]) -> ArmOfWeek:
    by_day = {row.pacific_day: row for row in rows}
    units = sum(row.units for row in rows)
    # Searches spend a bucket of their own, beside which their metadata cost nothing that others would miss.
    cost = units if arm.startswith("search:") else units + sum(row.enrichments for row in rows)
    growing = sum(row.growing for row in rows)
    return ArmOfWeek(
        arm=arm,
        asks=sum(row.asks for row in rows),
        units=cost,
        found=sum(row.found for row in rows),
        new=sum(row.new for row in rows),
        early=sum(row.early for row in rows),
        judged=sum(row.judged for row in rows),
        growing=growing,
        growing_per_unit=growing / cost if cost else None,
        new_by_day=tuple(by_day[day].new if day in by_day else 0 for day in days),
        early_by_day=tuple(by_day[day].early if day in by_day else 0 for day in days),
        growing_by_day=tuple(by_day[day].growing if day in by_day else 0 for day in days),
    )


async def _risers(atlas: Atlas, dao: ReportsDAO, begins_at: datetime, ends_at: datetime) -> tuple[Riser, ...]:
    from atlas.adapters.board import BoardDAO

    gains = await dao.risers(begins_at, ends_at, atlas.settings.maintainer.reports.risers)
    board = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    samples = await board.samples([each.id for each in gains], begins_at, ends_at)
    return tuple(
        _riser(rank, gain, _growth(samples[gain.id], begins_at, ends_at))
        for rank, gain in enumerate(gains, 1)
    )


def _growth(samples: Sequence[Any], begins_at: datetime, ends_at: datetime) -> tuple[float | None, ...]:
    from maia.views.curves import Curve, rates

    curve = Curve.of(
        [each.sampled_at for each in samples],
        [each.views for each in samples],
        [each.velocity for each in samples],
    )
    found = rates(curve, begins_at.timestamp(), ends_at.timestamp(), PARTS).tolist()
    return tuple(None if rate != rate else round(rate, 3) for rate in found)


def _riser(rank: int, gain: Gain, growth: tuple[float | None, ...]) -> Riser:
    return Riser(
        rank=rank,
        id=gain.id,
        title=gain.title,
        channel_id=gain.channel_id,
        channel_title=gain.channel_title,
        published_at=gain.published_at,
        url=video_url(gain.id),
        views=gain.views,
        gained=gain.gained,
        views_per_hour=gain.gained / gain.hours if gain.hours else 0.0,
        peak_per_hour=gain.peak,
        growth=growth,
    )


async def _quota(atlas: Atlas, units: Sequence[UnitsOfDay], days: Sequence[date]) -> tuple[QuotaOfWeek, ...]:
    from atlas.clock import pacific_day
    from maia.views.ledger import ledger_lines

    limits: defaultdict[tuple[str, str], int] = defaultdict(int)
    for line in await ledger_lines(atlas):
        limits[line.bucket, line.ring] += line.ring_limit
    today = pacific_day(atlas.clock.now())
    past = sum(day <= today for day in days)
    groups = _grouped(units, lambda each: (each.bucket, each.ring))
    # An account that nothing was spent of is worth a line if there were others: its units were left over.
    accounts = sorted({*groups, *(limits if units else ())})
    rows = [
        _use(bucket, ring, groups.get((bucket, ring), []), limits.get((bucket, ring)), days, past)
        for bucket, ring in accounts
    ]
    # What archeology doesn't use it has lent to the others, whose limits count it.
    shown = [row for row in rows if row.used or (row.limit and row.ring != "archeology")]
    # Why a bucket was closed is said once, at its first ring.
    return tuple(
        replace(row, reason=None) if number and shown[number - 1].bucket == row.bucket else row
        for number, row in enumerate(shown)
    )


def _use(
    bucket: str, ring: str, rows: Sequence[UnitsOfDay], limit: int | None, days: Sequence[date], past: int
) -> QuotaOfWeek:
    by_day = {row.pacific_day: row.used for row in rows}
    used = sum(by_day.values())
    reasons = [row.reason for row in rows if row.reason]
    return QuotaOfWeek(
        bucket=bucket,
        ring=ring,
        used=used,
        limit=limit,
        used_by_day=tuple(by_day.get(day, 0) for day in days),
        share=used / (limit * past) if limit and past else None,
        reason=reasons[-1] if reasons else None,
    )


def _zones(due: Sequence[DueOfDay], days: Sequence[date]) -> tuple[ZoneOfWeek, ...]:
    groups = _grouped(due, lambda each: each.zone)
    return tuple(_zone(zone, groups[zone], days) for zone in ZONES if zone in groups)


def _zone(zone: str, rows: Sequence[DueOfDay], days: Sequence[date]) -> ZoneOfWeek:
    by_day = {row.day: row for row in rows}
    return ZoneOfWeek(
        zone=zone,
        mean=sum(row.mean * row.looks for row in rows) / sum(row.looks for row in rows),
        most=max(row.most for row in rows),
        mean_by_day=tuple(by_day[day].mean if day in by_day else None for day in days),
        most_by_day=tuple(by_day[day].most if day in by_day else None for day in days),
    )


def _agents(cycles: Sequence[CyclesEnded], agents: Sequence[str]) -> tuple[AgentOfWeek, ...]:
    groups = _grouped(cycles, lambda each: each.agent)
    return tuple(_agent(agent, groups[agent]) for agent in agents if agent in groups)


def _agent(agent: str, rows: Sequence[CyclesEnded]) -> AgentOfWeek:
    good = sum(row.cycles for row in rows if row.outcome in _GOOD)
    total = sum(row.cycles for row in rows)
    most = max(rows, key=lambda row: (row.cycles, row.outcome))
    outcomes = {row.outcome: row.cycles for row in rows}
    stopped = outcomes.get("interrupted", 0)
    return AgentOfWeek(agent, total, good, total - good - stopped, most.seconds, outcomes)


async def _hosts(dao: ReportsDAO, begins_at: datetime, ends_at: datetime) -> tuple[HostFigures, ...]:
    return tuple(
        HostFigures(
            each.node, each.cpu_percent, each.cpu_most, each.memory_percent, each.memory_most,
            each.disk_most, each.disk_free_bytes,
        )
        for each in await dao.hosts(begins_at, ends_at)
    )  # fmt: skip


def _health(scores: Sequence[ScoreOfDay], days: Sequence[date]) -> tuple[ComponentHealth, ...]:
    groups = _grouped(scores, lambda each: each.component)
    components = [_component(name, rows, days) for name, rows in groups.items()]
    return tuple(sorted(components, key=lambda each: (each.lowest, each.mean, each.component)))


def _component(name: str, rows: Sequence[ScoreOfDay], days: Sequence[date]) -> ComponentHealth:
    by_day = {row.day: row.mean for row in rows}
    return ComponentHealth(
        component=name,
        mean=_mean([(row.mean, row.judgements) for row in rows]) or 0.0,
        lowest=min(row.lowest for row in rows),
        by_day=tuple(by_day.get(day) for day in days),
    )


async def _incidents(atlas: Atlas, begins_at: datetime, ends_at: datetime) -> tuple[IncidentOfWeek, ...]:
    """The week's incidents; those that another one explains are left to that one."""
    from atlas.adapters.incidents import IncidentsDAO

    dao = IncidentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    until = min(ends_at, atlas.clock.now())
    found = await dao.between(begins_at, ends_at, limit=_MOST_INCIDENTS)
    return tuple(_incident(each, begins_at, until) for each in found if each.cause is None)


def _incident(incident: Incident, begins_at: datetime, until: datetime) -> IncidentOfWeek:
    ended_at = incident.recovered_at
    if ended_at is not None and ended_at > until:
        ended_at = None
    begin = max(incident.opened_at, begins_at)
    return IncidentOfWeek(
        key=incident.key,
        severity=incident.severity,
        text=incident.text,
        began_at=incident.opened_at,
        ended_at=ended_at,
        seconds=max(((ended_at or until) - begin).total_seconds(), 0.0),
        acknowledged=incident.acknowledged_at is not None,
    )


async def _actions(
    atlas: Atlas, begins_at: datetime, ends_at: datetime
) -> tuple[tuple[ActionOfWeek, ...], int]:
    """The last actions of the week, oldest first, and how many more there were."""
    from atlas.adapters.actions import ActionsDAO

    dao = ActionsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    total = sum(each.count for each in await dao.counts(begins_at, ends_at))
    since = await dao.since(begins_at, limit=_MOST_LOOKED_AT)
    last = [each for each in since if each.at < ends_at][:_MOST_DEEDS]
    actions = tuple(
        ActionOfWeek(each.at, each.thing.kind, each.thing.target, each.state.value, each.result or each.plan)
        for each in reversed(last)
    )
    return actions, max(total - len(actions), 0)


async def _learnt(
    atlas: Atlas, dao: ReportsDAO, begins_at: datetime, ends_at: datetime
) -> LearntOfWeek | None:
    from maia.views.patterns import patterns

    known = [each for each in await patterns(atlas) if each.created_at < ends_at]
    forgotten, last = await dao.forgotten(begins_at, ends_at, _MOST_PATTERNS)
    if not known and not forgotten:
        return None
    new = [each for each in known if each.created_at >= begins_at]
    return LearntOfWeek(
        known=len(known),
        new=len(new),
        forgotten=forgotten,
        newest=tuple(map(_pattern, new[:_MOST_PATTERNS])),
        strongest=tuple(map(_pattern, known[:_MOST_PATTERNS])),
        dropped=tuple(each.statement for each in last),
    )


def _pattern(believed: Any) -> LearntPattern:
    return LearntPattern(
        believed.id, str(believed.type), believed.statement, believed.confidence, believed.support
    )


async def _suggestions(atlas: Atlas) -> tuple[OpenSuggestion, ...]:
    from atlas.adapters.comments import CommentsDAO

    dao = CommentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    return tuple(
        OpenSuggestion(each.id, each.category, each.text, each.command, each.made_at, each.author)
        for each in await dao.comments(_MOST_SUGGESTIONS)
    )


async def _forecasts(atlas: Atlas, begins_at: datetime, ends_at: datetime) -> tuple[ForecastOfWeek, ...]:
    from maia.views.forecasts import forecast_scores, horizon

    scores = (await forecast_scores(atlas, begins_at, ends_at)).scores
    return tuple(
        _forecast(horizon(hours), rows)
        for hours, rows in _grouped(scores, lambda each: each.horizon_h).items()
    )


def _forecast(name: str, rows: Sequence[Any]) -> ForecastOfWeek:
    """One line of the scores of all age classes, weighted by how many forecasts each had."""
    told = [row for row in rows if row.coverage is not None and row.intervals]
    ratios = [row for row in rows if row.ratio is not None]
    held = _mean([(row.coverage, row.intervals) for row in told])
    ratio = _mean([(row.ratio, row.forecasts) for row in ratios])
    return ForecastOfWeek(
        horizon=name,
        forecasts=sum(row.forecasts for row in rows),
        error=_mean([(row.error, row.forecasts) for row in rows]) or 0.0,
        better=None if ratio is None else 1 - ratio,
        coverage=held,
    )


def _mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    weight = sum(each for _, each in weighted)
    return sum(value * each for value, each in weighted) / weight if weight else None
