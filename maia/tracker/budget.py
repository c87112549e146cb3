"""The tracker's budget: how many samples the quota pays for, and on which due videos to spend them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from atlas.adapters.tracking import DueVideo, ZoneCounts
from atlas.clock import next_reset
from atlas.config import TrackerSettings
from atlas.keyring import LedgerLine
from maia.cycle.paid import is_usable, units_now
from maia.learning.zones import Zone, allocate
from maia.views.clock import samples_per_h, zone_settings
from maia.youtube.client import IDS_PER_CALL

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Shortage:
    """The due videos that the budget does not pay for, by zone, and how many of them wait too long."""

    deferred: Mapping[str, int]
    starving: int


def spendable(
    ledger: Sequence[LedgerLine],
    hot_due: int,
    counts: Sequence[ZoneCounts],
    now: datetime,
    round_s: float,
) -> int:
    """How many samples to take now: what the quota pays for, minus what hot videos need until the reset.

    A call costs the same for one video as for fifty, so the reserve for each future round is a whole number
    of calls. If the ring may only test whether a key works again, the result is the samples of one call.
    """
    units = units_now(ledger, "stats")
    if not units:
        return IDS_PER_CALL
    left = sum(line.left for line in ledger if line.bucket == "stats" and is_usable(line))
    hot_per_h = sum(count.demand_per_h for count in counts if count.zone == Zone.HOT)
    round_h = round_s / 3600
    rounds = math.floor((next_reset(now) - now) / _HOUR / round_h)
    hot_now, kept = _calls(hot_due), _calls(hot_per_h * round_h) * rounds
    return IDS_PER_CALL * min(units, hot_now + max(0, left - hot_now - kept))


def _calls(videos: float) -> int:
    return math.ceil(videos / IDS_PER_CALL)


def choose(
    due: Sequence[DueVideo],
    payable: int,
    now: datetime,
    counts: Sequence[ZoneCounts],
    ledger: Sequence[LedgerLine],
    tracker: TrackerSettings,
    round_s: float,
) -> tuple[list[str], Shortage]:
    """The ids on which to spend `payable` samples, most urgent first, and what is left out."""
    allocation = allocate(
        np.array([video.zone for video in due], dtype=np.int64),
        [(now - video.born_at) / _HOUR for video in due],
        [(now - video.next_due_at) / _HOUR for video in due],
        np.array([video.interval_h for video in due], dtype=np.float64),
        [video.velocity for video in due],
        [video.acceleration for video in due],
        budget=payable,
        next_round_h=round_s / 3600,
        budget_per_h=_left_per_h(counts, ledger),
        settings=zone_settings(tracker),
    )
    chosen = {zone: allocation.due[zone] - allocation.deferred[zone] for zone in Zone}
    deferred = {count.zone: max(0, count.due - chosen[Zone(count.zone)]) for count in counts}
    return [due[row].id for row in allocation.chosen.tolist()], Shortage(named(deferred), allocation.starving)


def named(by_zone: Mapping[int, int]) -> dict[str, int]:
    """Counts by zone name instead of number."""
    return {Zone(zone).name.lower(): count for zone, count in by_zone.items()}


def _left_per_h(counts: Sequence[ZoneCounts], ledger: Sequence[LedgerLine]) -> float:
    """Samples per hour that remain for due warm and cold videos, after hot videos and those not yet due."""
    taken = sum(
        count.demand_per_h * (1.0 if count.zone == Zone.HOT else 1 - count.due / count.live)
        for count in counts
    )
    return max(0.0, samples_per_h(ledger) - taken)
