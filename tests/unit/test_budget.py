from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from atlas.adapters.tracking import DueVideo, ZoneCounts
from atlas.config import TrackerSettings
from atlas.keyring import KeyState, KeyStatus, LedgerLine
from atlas.testing import NOON
from maia.cycle.paid import units_now
from maia.learning.zones import Zone
from maia.tracker.budget import choose, spendable
from maia.views.clock import samples_per_h, slowing

SETTINGS = TrackerSettings()
ROUND_S = 600
KEY = KeyStatus("key-1", "demo", KeyState.ACTIVE, None, 0, 0, None)
STATS = LedgerLine("tracking", "stats", "demo", 100, 96, 50, 10, 5, 81, 15, None, None, (KEY,))


def due(id_: str, zone: int, age_h: float, overdue_h: float, velocity: float = 100.0) -> DueVideo:
    interval_h = (1.0, 6.0, 24.0)[zone]
    born_at, due_at = NOON - timedelta(hours=age_h), NOON - timedelta(hours=overdue_h)
    return DueVideo(id_, zone, born_at, due_at, interval_h, velocity, 0.0)


def counted(*rows: tuple[int, int, int]) -> list[ZoneCounts]:
    """Zones by (zone, live, due), each at its usual interval."""
    return [
        ZoneCounts(zone, live, waiting, 0, NOON, live / (1.0, 6.0, 24.0)[zone])
        for zone, live, waiting in rows
    ]


def test_units_are_those_that_pace_allows_of_buckets_that_are_open():
    assert units_now([STATS], "stats") == 35
    assert units_now([replace(STATS, left=3)], "stats") == 3
    assert units_now([replace(STATS, used=60)], "stats") == 0
    assert units_now([STATS, replace(STATS, project="other")], "stats") == 70
    assert units_now([STATS], "general") == 0
    assert units_now([replace(STATS, closed_until=NOON)], "stats") == 0
    resting = replace(KEY, state=KeyState.OPEN)
    assert units_now([replace(STATS, keys=(resting,))], "stats") == 0
    assert samples_per_h([STATS]) == 200


def test_what_the_hot_ones_will_need_until_the_reset_is_kept_for_them():
    # NOON is 20 hours before the reset: 120 rounds of ten minutes.
    plenty = replace(STATS, limit=1000, ring_limit=1000, allowed=500, used=0, reserved=0, left=1000)
    assert spendable([plenty], 0, counted((2, 10**6, 10**6)), NOON, ROUND_S) == 500 * 50
    hot = counted((0, 2400, 400), (2, 10**6, 10**6))
    # 400 a round are 8 calls, and 960 until the reset: 32 remain besides those of now.
    assert spendable([plenty], 400, hot, NOON, ROUND_S) == 40 * 50
    assert spendable([replace(plenty, left=500)], 400, hot, NOON, ROUND_S) == 8 * 50
    assert spendable([replace(plenty, left=500)], 0, hot, NOON, ROUND_S) == 0
    assert spendable([replace(plenty, allowed=3)], 400, hot, NOON, ROUND_S) == 3 * 50


def test_a_ring_that_may_only_probe_a_key_samples_by_one_call():
    resting = replace(STATS, keys=(replace(KEY, state=KeyState.OPEN),))
    assert spendable([resting], 0, counted((2, 10, 10)), NOON, ROUND_S) == 50


def test_hot_ones_go_first_then_those_that_would_starve_then_those_that_tell_most():
    videos = [
        due("dull", 2, 2000, 1, velocity=1.0),
        due("starving", 2, 2000, 47.9, velocity=0.0),
        due("telling", 1, 30, 1, velocity=5000.0),
        due("hot", 0, 3, 0.1),
    ]
    counts = counted((0, 10, 1), (1, 10, 1), (2, 10, 2))
    for budget, expected in ((1, ["hot"]), (2, ["hot", "starving"]), (3, ["hot", "starving", "telling"])):
        chosen, shortage = choose(videos, budget, NOON, counts, [STATS], SETTINGS, ROUND_S)
        assert chosen == expected
        assert sum(shortage.deferred.values()) == 4 - budget
    assert shortage.deferred == {"hot": 0, "warm": 0, "cold": 1}


def test_those_left_out_that_wait_too_long_are_told():
    videos = [due(f"hot{n}", 0, 3, 2.5) for n in range(5)]
    chosen, shortage = choose(videos, 2, NOON, counted((0, 5, 5)), [STATS], SETTINGS, ROUND_S)
    assert (len(chosen), shortage.starving, shortage.deferred) == (2, 3, {"hot": 3})


def test_what_was_not_weighed_counts_as_left_out():
    _, shortage = choose(
        [due("cold", 2, 300, 0)], 1, NOON, counted((2, 900, 500)), [STATS], SETTINGS, ROUND_S
    )
    assert shortage.deferred == {"cold": 499}


def test_the_cold_slow_down_before_the_warm_and_the_hot_never():
    stretches = slowing(counted((0, 100, 0), (1, 600, 0), (2, 2400, 0)), [STATS], SETTINGS)
    assert stretches.factors == {
        Zone.HOT: 1.0, Zone.WARM: pytest.approx(1.5), Zone.COLD: pytest.approx(3.0),
    }  # fmt: skip
    assert stretches.shortfall_per_h == 0
