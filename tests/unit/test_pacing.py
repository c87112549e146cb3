"""What a ring may spend by an instant, over ordinary days and those on which the clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.clock import next_reset, pacific_day, pacific_midnight
from atlas.config import BUCKETS, RINGS, QuotaSettings
from atlas.pacing import LAST_CALL, Allowance

SPRING, AUTUMN, ORDINARY = date(2026, 3, 8), date(2026, 11, 1), date(2026, 11, 2)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


def quota(**values: Any) -> QuotaSettings:
    return QuotaSettings.model_validate(values)


def paced(ring_limit: int, burst: str = "0") -> Allowance:
    return Allowance(limit=ring_limit, ring_limit=ring_limit, burst=Fraction(burst))


@pytest.mark.parametrize(
    ("limit", "share", "reserve", "ring_limit"),
    [
        (100, 0.9, 0.05, 85),
        (100, 0.1, 0.05, 9),
        (10_000, 0.4, 0.05, 3_800),
        (100, 0.29, 0, 29),
        (1_000, 0.57, 0.1, 513),
        (10, 0.9, 0.05, 8),
        (1, 1, 0, 1),
        (1, 1, 0.05, 0),
        (1, 0.9, 0, 0),
        (0, 0.9, 0.05, 0),
        (100, 0, 0.05, 0),
        (100, 0.9, 1, 0),
    ],
)
def test_a_ring_may_spend_its_share_less_the_reserve(
    limit: int, share: float, reserve: float, ring_limit: int
) -> None:
    settings = quota(
        limits={"search": limit},
        shares={"hunting": {"search": share}, "archeology": {}},
        reserve=reserve,
    )
    allowance = Allowance.of(settings, "any", "hunting", "search")
    assert (allowance.limit, allowance.ring_limit) == (limit, ring_limit)


def test_a_project_may_have_limits_of_its_own() -> None:
    settings = quota(projects={"big": {"search": 1_000}}, reserve=0)
    assert Allowance.of(settings, "big", "hunting", "search").ring_limit == 1_000
    assert Allowance.of(settings, "other", "hunting", "search").ring_limit == 100


def test_by_default_every_bucket_is_used_up_to_its_reserve() -> None:
    """No share lies idle: archeology makes no searches, so the hunter has all of them."""
    limits = {
        bucket: sum(Allowance.of(quota(), "any", ring, bucket).ring_limit for ring in RINGS)
        for bucket in BUCKETS
    }
    assert limits == {"search": 98, "stats": 9_500, "general": 9_500}
    assert Allowance.of(quota(), "any", "archeology", "search").ring_limit == 0


@pytest.mark.parametrize(
    ("reserve", "left"),
    [
        (0.1, (90, 900)),
        ("0.1", (90, 900)),
        ({"search": 0.2}, (80, 950)),
        ({"general": 0.5}, (98, 500)),
    ],
)
def test_the_reserve_is_set_for_all_buckets_or_for_each(reserve: Any, left: tuple[int, int]) -> None:
    whole = {"hunting": {"search": 1, "general": 1}, "tracking": {}, "archeology": {}}
    settings = quota(reserve=reserve, shares=whole, limits={"search": 100, "general": 1_000})
    assert tuple(
        Allowance.of(settings, "any", "hunting", bucket).ring_limit for bucket in ("search", "general")
    ) == left  # fmt: skip


@pytest.mark.parametrize(
    ("day", "hours", "allowed"),
    [
        (ORDINARY, 0, 0),
        (ORDINARY, 6, 60),
        (ORDINARY, 12, 120),
        (ORDINARY, 23, 230),
        (SPRING, 0, 0),
        (SPRING, 6, 62),
        (SPRING, 11.5, 120),
        (SPRING, 22, 229),
        (AUTUMN, 0, 0),
        (AUTUMN, 6, 57),
        (AUTUMN, 12.5, 120),
        (AUTUMN, 24, 230),
    ],
)
def test_the_pace_follows_the_length_of_the_day(day: date, hours: float, allowed: int) -> None:
    assert paced(240).at(pacific_midnight(day) + hours * HOUR) == allowed


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (ORDINARY, 24), (AUTUMN, 25)])
def test_every_day_ends_with_all_its_units_and_the_next_begins_with_none(day: date, hours: int) -> None:
    end = pacific_midnight(day) + hours * HOUR
    assert pacific_day(end) == day + timedelta(days=1)
    assert paced(85).at(end - LAST_CALL) == 85
    assert paced(85).at(end - LAST_CALL - MICROSECOND) == 84
    assert paced(85).at(end) == 0


def test_a_burst_runs_ahead_of_the_pace_but_not_of_the_day() -> None:
    start = pacific_midnight(ORDINARY)
    assert paced(85, "0.1").at(start) == 8
    assert paced(85, "0.1").at(start + 12 * HOUR) == 51
    assert paced(85, "0.1").at(start + 22 * HOUR) == 85


def test_without_pacing_the_whole_day_is_allowed_at_once() -> None:
    allowance = Allowance.of(quota(pacing=False), "any", "hunting", "search")
    assert allowance.at(pacific_midnight(ORDINARY)) == 98
    assert allowance.admitted_at(98, ORDINARY) == pacific_midnight(ORDINARY)


@given(
    day=st.sampled_from([SPRING, ORDINARY, AUTUMN]),
    ring_limit=st.integers(1, 20_000),
    burst=st.decimals(0, 1, places=3).map(str),
    data=st.data(),
)
def test_units_come_due_exactly_when_told(
    day: date, ring_limit: int, burst: str, data: st.DataObject
) -> None:
    allowance = paced(ring_limit, burst)
    units = data.draw(st.integers(1, ring_limit))
    due = allowance.admitted_at(units, day)
    assert pacific_day(due) == day
    assert allowance.at(due) >= units
    if due > pacific_midnight(day):
        assert allowance.at(due - MICROSECOND) < units


@given(
    instant=st.integers(0, 366 * 24 * 3600).map(lambda seconds: NEW_YEAR + timedelta(seconds=seconds)),
    ring_limit=st.integers(0, 20_000),
    burst=st.decimals(0, 1, places=3).map(str),
)
def test_the_pace_is_the_fraction_of_the_day_and_the_burst(
    instant: datetime, ring_limit: int, burst: str
) -> None:
    start = pacific_midnight(pacific_day(instant))
    day_fraction = (instant - start) / (next_reset(instant) - start)
    exact = ring_limit * min(1, day_fraction + float(burst))
    allowed = paced(ring_limit, burst).at(instant)
    assert allowed <= ring_limit
    assert abs(allowed - exact) <= 1 or allowed == ring_limit


class TestOpening:
    """The first instant with room."""

    noon = pacific_midnight(ORDINARY) + 12 * HOUR

    def opens(self, allowance: Allowance, units: int = 1, **known: Any) -> datetime | None:
        spent = known.pop("spent", 0)
        defaults = {
            "spent": spent,
            "left": allowance.ring_limit - spent,
            "today": ORDINARY,
            "ready": self.noon,
        }
        return allowance.opens_at(units, **(defaults | known))

    def test_at_once_where_there_is_room(self) -> None:
        assert self.opens(paced(24), spent=11) == self.noon

    def test_when_pace_admits_the_next_unit(self) -> None:
        assert self.opens(paced(24), spent=12) == self.noon + HOUR

    def test_tomorrow_where_the_day_is_spent(self) -> None:
        tomorrow = pacific_midnight(ORDINARY + timedelta(days=1))
        assert self.opens(paced(24, "0.1"), spent=24) == tomorrow
        assert self.opens(paced(24), spent=24) == tomorrow + HOUR

    def test_tomorrow_where_the_other_rings_left_nothing(self) -> None:
        tomorrow = pacific_midnight(ORDINARY + timedelta(days=1))
        assert self.opens(paced(24, "0.1"), spent=3, left=0) == tomorrow

    def test_not_before_everything_else_is_ready(self) -> None:
        ready = pacific_midnight(ORDINARY + timedelta(days=3)) + HOUR / 2
        assert self.opens(paced(24), spent=24, ready=ready) == ready + HOUR / 2

    def test_never_for_more_than_a_day_holds(self) -> None:
        assert self.opens(paced(24), units=25) is None
        assert self.opens(paced(0)) is None
