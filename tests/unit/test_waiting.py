"""The pace of the day's units: when the next one may be spent, and whether they last."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from fractions import Fraction

from atlas.clock import next_reset, pacific_midnight
from atlas.config import QuotaSettings
from atlas.pacing import Allowance
from maia.views.ledger import RingQuota
from maia.views.waiting import paces

QUOTA = QuotaSettings()
DAY = pacific_midnight(date(2026, 5, 4))
HOUR = timedelta(hours=1)


def line(**values: object) -> RingQuota:
    usual = RingQuota(
        ring="hunting", bucket="search", project="p", limit=100, ring_limit=60, allowed=30, used=20,
        reserved=0, free_now=10, left=40, project_spent=20, closed_until=None, reason=None, keys=(),
        loan=0, spent_by_others=0,
    )  # fmt: skip
    return replace(usual, **values)  # type: ignore[arg-type]


def test_a_ring_that_spends_too_fast_is_told_when_its_share_ends() -> None:
    [fast, slow] = paces([line(), line(used=5, left=55)], QUOTA, DAY + 6 * HOUR)
    assert (fast.per_hour, fast.used_up_at, fast.held_by) == (20 / 6, DAY + 18 * HOUR, None)
    assert (slow.used_up_at, slow.opens_at) == (None, None)


def test_the_next_unit_waits_for_its_pace_a_closed_ring_or_the_next_day() -> None:
    now = DAY + 6 * HOUR
    paced = line(free_now=0, used=30, left=30)
    [pace] = paces([paced], QUOTA, now)
    allowance = replace(Allowance.of(QUOTA, "p", "hunting", "search"), ring_limit=60)
    assert pace.opens_at is not None
    assert allowance.at(pace.opens_at) >= 31 > allowance.at(pace.opens_at - timedelta(seconds=2))
    assert allowance.burst is None or allowance.burst < Fraction(1, 2)
    assert pace.held_by == "the pace of the day"
    [used_up] = paces([line(free_now=0, used=60, left=0)], QUOTA, now)
    assert (used_up.opens_at, used_up.held_by) == (next_reset(now), "the day's share is used up")
    [closed] = paces([line(closed_until=now + HOUR, reason="a 403")], QUOTA, now)
    assert (closed.opens_at, closed.held_by) == (now + HOUR, "a 403")
