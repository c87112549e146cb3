"""The tracker's clock view: how many samples its zones demand, and how many the day's quota pays for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from atlas.adapters.tracking import ZoneCounts
from atlas.config import TrackerSettings
from atlas.keyring import LedgerLine
from maia.cycle.paid import is_usable
from maia.learning.zones import Stretches, Zone, ZoneSettings, stretches
from maia.views.words import ZoneName, zone_name
from maia.youtube.client import IDS_PER_CALL

CLAIMS_AMONG: Final = 1_000
"""Claims are counted among so many videos of a zone: those due longest, which are claimed first."""
_HOUR: Final = timedelta(hours=1)
_DAY_H: Final = 24.0


@dataclass(frozen=True, slots=True)
class ZoneRow:
    """A zone of the clock: how many videos it tracks, and how overdue the most overdue one is.

    `leased` ones are in work, of the up to 1,000 that have been due longest. `slowed` is the factor by which
    its intervals grow because the quota doesn't pay for more samples.
    """

    zone: ZoneName | None
    live: int
    due: int
    leased: int
    starving: int
    oldest_due_at: datetime | None
    lag_h: float
    demand_per_h: float
    slowed: float


@dataclass(frozen=True, slots=True)
class Tracking:
    """The zones, with the samples per hour that they demand and that the quota pays for."""

    zones: tuple[ZoneRow, ...]
    demand_per_h: float
    paid_per_h: float
    short_per_h: float
    starving: int


def tracking(
    counts: Sequence[ZoneCounts],
    claimed: Mapping[int, int],
    lines: Sequence[LedgerLine],
    tracker: TrackerSettings,
    now: datetime,
) -> Tracking:
    """The zones with their lag, and whether the day's quota pays for their intervals."""
    paying = [line for line in lines if line.ring == "tracking"]
    slowed = slowing(counts, paying, tracker)
    zones = tuple(
        ZoneRow(
            zone=zone_name(count.zone), live=count.live, due=count.due, leased=claimed[count.zone],
            starving=count.starving, oldest_due_at=count.oldest_due_at,
            lag_h=max((now - count.oldest_due_at) / _HOUR, 0.0) if count.oldest_due_at else 0.0,
            demand_per_h=count.demand_per_h, slowed=slowed.factors[Zone(count.zone)],
        )
        for count in counts
    )  # fmt: skip
    return Tracking(
        zones=zones,
        demand_per_h=sum(count.demand_per_h for count in counts),
        paid_per_h=samples_per_h(paying),
        short_per_h=slowed.shortfall_per_h,
        starving=sum(count.starving for count in counts),
    )


def zone_settings(tracker: TrackerSettings) -> ZoneSettings:
    """The clock's part of the settings."""
    return ZoneSettings(
        hot_until_h=tracker.hot_until_h,
        warm_until_h=tracker.warm_until_h,
        hot_interval_h=tracker.hot_interval_h,
        warm_interval_h=tracker.warm_interval_h,
        cold_interval_h=tracker.cold_interval_h,
        fastest=tracker.fastest,
        slowest=tracker.slowest,
        patience=tracker.patience,
    )


def samples_per_h(ledger: Sequence[LedgerLine]) -> float:
    """Samples per hour that a day's units of the stats bucket pay for."""
    units = sum(line.ring_limit for line in ledger if line.bucket == "stats" and is_usable(line))
    return units * IDS_PER_CALL / _DAY_H


def slowing(
    counts: Sequence[ZoneCounts], ledger: Sequence[LedgerLine], tracker: TrackerSettings
) -> Stretches:
    """How much each zone must slow down if a day's quota does not pay for its intervals."""
    demand_per_h = {Zone(count.zone): count.demand_per_h for count in counts}
    return stretches(demand_per_h, samples_per_h(ledger), zone_settings(tracker))
