"""The plan view: today's units by arm of discovery, why, what was used, and what came of yesterday's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.adapters.discovery import ArmOfDay, DayOfArm
    from atlas.composition import Atlas
    from atlas.keyring import LedgerLine


@dataclass(frozen=True, slots=True)
class PlanLine:
    """An arm today: `planned` units of its bucket, `used` ones, and what they brought so far.

    `expected` early growing videos per unit lie between `low` and `high`. An arm that is free, or was asked
    without a plan, has no share. `unwell` says how its answers differ from what was asked.
    """

    arm: str
    bucket: str | None
    share: float | None
    planned: int | None
    used: int
    enrichments: float
    asks: int
    found: int
    new: int
    early: int
    expected: float | None
    low: float | None
    high: float | None
    reason: str
    unwell: str | None


@dataclass(frozen=True, slots=True)
class YieldLine:
    """What an arm brought on a day: of its `early` videos, `judged` ones, and how many of these grew.

    `per_unit` is growing videos per unit, None where it cost none.
    """

    arm: str
    asks: int
    units: int
    enrichments: float
    found: int
    new: int
    early: int
    judged: int
    growing: int
    per_unit: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Today's plan and yesterday's yield, by Pacific days."""

    now: datetime
    pacific_day: date
    strategy: str
    growing_views_per_hour: float | None
    """Views an hour over the first 24 from which a video counts as growing."""
    today: tuple[PlanLine, ...]
    yesterday: tuple[YieldLine, ...]


async def plan(atlas: Atlas) -> Plan:
    """Read the plan; there is none before the first hunter of the day."""
    from atlas.adapters.discovery import DiscoveryDAO
    from atlas.clock import pacific_day
    from maia.views.ledger import ledger_lines

    dao, now = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings), atlas.clock.now()
    day = pacific_day(now)
    limits = _limits(await ledger_lines(atlas))
    yields = await dao.yields_since(day - timedelta(days=1))
    is_off = atlas.settings.discovery.is_off
    planned = [_planned(arm, limits, is_off=is_off(arm.arm)) for arm in await dao.plan(day)]
    others = {each.arm: each for each in yields if each.pacific_day == day}
    unplanned = [_unplanned(others[arm]) for arm in others if arm not in {line.arm for line in planned}]
    return Plan(
        now=now,
        pacific_day=day,
        strategy=atlas.settings.hunter.strategy,
        growing_views_per_hour=await dao.growing_views_per_hour(),
        today=(*planned, *unplanned),
        yesterday=tuple(_yield(each) for each in yields if each.pacific_day < day),
    )


def _limits(lines: Iterable[LedgerLine]) -> Mapping[str, int]:
    """What the hunter may spend of each bucket in the day."""
    limits: dict[str, int] = {}
    for line in lines:
        if line.ring == "hunting":
            limits[line.bucket] = limits.get(line.bucket, 0) + line.ring_limit
    return limits


def _planned(arm: ArmOfDay, limits: Mapping[str, int], *, is_off: bool) -> PlanLine:
    limit = limits.get(arm.bucket)
    return PlanLine(
        arm=arm.arm,
        bucket=arm.bucket,
        share=arm.share,
        planned=None if limit is None else round(arm.share * limit),
        used=arm.units,
        enrichments=arm.enrichments,
        asks=arm.asks,
        found=arm.found,
        new=arm.new,
        early=arm.early,
        expected=arm.expected,
        low=arm.low,
        high=arm.high,
        reason="switched off since: the others get its share" if is_off else arm.reason,
        unwell=arm.unwell,
    )


def _unplanned(each: DayOfArm) -> PlanLine:
    return PlanLine(
        arm=each.arm,
        bucket=None,
        share=None,
        planned=None,
        used=each.units,
        enrichments=each.enrichments,
        asks=each.asks,
        found=each.found,
        new=each.new,
        early=each.early,
        expected=None,
        low=None,
        high=None,
        reason="asked without a plan" if each.units else "costs nothing to ask",
        unwell=None,
    )


def _yield(each: DayOfArm) -> YieldLine:
    cost = each.units if each.arm.startswith("search:") else each.units + each.enrichments
    return YieldLine(
        arm=each.arm,
        asks=each.asks,
        units=each.units,
        enrichments=each.enrichments,
        found=each.found,
        new=each.new,
        early=each.early,
        judged=each.judged,
        growing=each.growing,
        per_unit=each.growing / cost if cost else None,
    )
