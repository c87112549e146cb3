"""What the quota pays for: samples now and an hour, and the due videos on which a short budget is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from atlas.adapters.tracking import DueVideo, ZoneCounts
from atlas.clock import next_reset
from atlas.config import Bucket, TrackerSettings
from atlas.keyring import KeyState, LedgerLine
from maia.learning.zones import Stretches, Zone, ZoneSettings, allocate, stretches
from maia.youtube.client import IDS_PER_CALL

_HOUR = timedelta(hours=1)
_DAY_H = 24.0


@dataclass(frozen=True, slots=True)
class Shortage:
    """More is due than the budget pays: what it leaves out, by zone, and how many of those wait too long."""

    deferred: Mapping[str, int]
    starving: int


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
        worthwhile_views=tracker.worthwhile_views,
        patience=tracker.patience,
    )


def units_now(ledger: Sequence[LedgerLine], bucket: Bucket) -> int:
    """How many units of a bucket the ring may spend now."""
    return sum(
        max(0, min(line.allowed - line.used - line.reserved, line.left))
        for line in ledger
        if line.bucket == bucket and _is_usable(line)
    )


def samples_per_h(ledger: Sequence[LedgerLine]) -> float:
    """Samples an hour that a day's units of the stats bucket pay for."""
    units = sum(line.ring_limit for line in ledger if line.bucket == "stats" and _is_usable(line))
    return units * IDS_PER_CALL / _DAY_H


def spendable(
    ledger: Sequence[LedgerLine],
    hot_due: int,
    counts: Sequence[ZoneCounts],
    now: datetime,
    tracker: TrackerSettings,
) -> int:
    """How many samples to take now: what is paid for, less what the hot ones will need until the reset.

    A call costs the same for one video as for fifty, so what is kept is a whole number of calls for each
    round to come. Where the ring may only probe whether a key works again, a call.
    """
    units = units_now(ledger, "stats")
    if not units:
        return IDS_PER_CALL
    left = sum(line.left for line in ledger if line.bucket == "stats" and _is_usable(line))
    hot_per_h = sum(count.demand_per_h for count in counts if count.zone == Zone.HOT)
    round_h = tracker.round_s / 3600
    rounds = math.floor((next_reset(now) - now) / _HOUR / round_h)
    hot_now, kept = _calls(hot_due), _calls(hot_per_h * round_h) * rounds
    return IDS_PER_CALL * min(units, hot_now + max(0, left - hot_now - kept))


def _calls(videos: float) -> int:
    return math.ceil(videos / IDS_PER_CALL)


def slowing(
    counts: Sequence[ZoneCounts], ledger: Sequence[LedgerLine], tracker: TrackerSettings
) -> Stretches:
    """By how much the zones will slow down, as a day's quota does not pay for their intervals."""
    demand_per_h = {Zone(count.zone): count.demand_per_h for count in counts}
    return stretches(demand_per_h, samples_per_h(ledger), zone_settings(tracker))


def choose(
    due: Sequence[DueVideo],
    payable: int,
    now: datetime,
    counts: Sequence[ZoneCounts],
    ledger: Sequence[LedgerLine],
    tracker: TrackerSettings,
) -> tuple[list[str], Shortage]:
    """The ids on which `payable` samples are spent best, most urgent first, and what is left out."""
    allocation = allocate(
        np.array([video.zone for video in due], dtype=np.int64),
        [(now - video.born_at) / _HOUR for video in due],
        [(now - video.next_due_at) / _HOUR for video in due],
        np.array([video.interval_h for video in due], dtype=np.float64),
        [video.velocity for video in due],
        [video.acceleration for video in due],
        budget=payable,
        next_round_h=tracker.round_s / 3600,
        budget_per_h=_left_per_h(counts, ledger),
        settings=zone_settings(tracker),
    )
    chosen = {zone: allocation.due[zone] - allocation.deferred[zone] for zone in Zone}
    deferred = {count.zone: max(0, count.due - chosen[Zone(count.zone)]) for count in counts}
    return [due[row].id for row in allocation.chosen.tolist()], Shortage(named(deferred), allocation.starving)


def named(by_zone: Mapping[int, int]) -> dict[str, int]:
    """Counts by the zones' names."""
    return {Zone(zone).name.lower(): count for zone, count in by_zone.items()}


def _left_per_h(counts: Sequence[ZoneCounts], ledger: Sequence[LedgerLine]) -> float:
    """Samples an hour that remain for warm and cold videos that are due: after the hot, and those not due."""
    taken = sum(
        count.demand_per_h * (1.0 if count.zone == Zone.HOT else 1 - count.due / count.live)
        for count in counts
    )
    return max(0.0, samples_per_h(ledger) - taken)


def _is_usable(line: LedgerLine) -> bool:
    return line.closed_until is None and any(key.state is KeyState.ACTIVE for key in line.keys)
