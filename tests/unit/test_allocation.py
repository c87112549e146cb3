from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.allocation import (
    AllocationSettings,
    ArmRecord,
    DayYield,
    Share,
    allocate,
    largest_deficit,
    pooled,
)

FEW_DRAWS = AllocationSettings(draws=50)

days = st.lists(
    st.builds(
        DayYield,
        age_days=st.integers(1, 30).map(float),
        units=st.floats(0, 1000),
        early_growing=st.integers(0, 5000).map(float),
        judged_share=st.floats(0, 1),
    ),
    max_size=5,
).map(tuple)


@st.composite
def arms(draw: st.DrawFn) -> list[ArmRecord]:
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1))
    return [
        ArmRecord(
            name,
            draw(st.sampled_from(["search", "general"])),
            draw(st.floats(0.01, 100)),
            draw(days),
            draw(st.sampled_from([1.0, 1.0, 0.6, 0.1])),
            draw(st.none() | st.floats(0, 0.12)),
            draw(st.sampled_from([False, False, False, True])),
        )
        for name in names
    ]


def shares_of(records: list[ArmRecord], **options: object) -> dict[str, Share]:
    allocated = allocate(records, seed=7, **options)  # type: ignore[arg-type]
    return {share.arm: share for shares in allocated.values() for share in shares}


@given(arms(), st.integers(), st.floats(0, 1), st.floats(0.05, 1))
def test_every_bound_holds(records: list[ArmRecord], seed: int, explore: float, cap: float):
    allocated = allocate(records, seed=seed, explore=explore, cap=cap, settings=FEW_DRAWS)
    for bucket, shares in allocated.items():
        by_name = {record.name: record for record in records if record.bucket == bucket}
        assert {share.arm for share in shares} == set(by_name)
        on = [record for record in by_name.values() if not record.off]
        free = [record for record in on if record.pinned is None]
        pinned = sum(record.pinned or 0 for record in on)
        total = sum(share.share for share in shares)
        assert total == pytest.approx(1 if free or pinned else 0)
        for share in shares:
            record = by_name[share.arm]
            assert share.low <= share.high
            assert share.reason
            if record.off:
                assert share.share == 0
            elif record.pinned is not None:
                assert not free or share.share == pytest.approx(record.pinned)
            else:
                floor = min(explore, 1 - pinned) / len(free)
                assert share.share >= floor - 1e-6


@given(arms(), st.randoms())
def test_neither_the_order_of_the_arms_nor_of_their_evidence_matters(
    records: list[ArmRecord], shuffled: random.Random
):
    others = [
        ArmRecord(
            r.name, r.bucket, r.prior_yield,
            tuple(shuffled.sample(r.days, len(r.days))), r.health, r.pinned, r.off,
        )
        for r in shuffled.sample(records, len(records))
    ]  # fmt: skip
    assert allocate(records, seed=1, settings=FEW_DRAWS) == allocate(others, seed=1, settings=FEW_DRAWS)


def test_a_day_of_which_next_to_nothing_is_judged_says_nothing_of_the_scale():
    barely = DayYield(1, 100, 0, judged_share=2e-309)
    tried = [ArmRecord("a", "search"), ArmRecord("b", "search", 2.0, (barely,))]
    untried = [ArmRecord("a", "search"), ArmRecord("b", "search", 2.0)]
    assert shares_of(tried)["b"].expected == pytest.approx(shares_of(untried)["b"].expected)


@given(st.lists(days, max_size=4), st.randoms())
def test_what_several_hunters_found_adds_up_in_any_order(
    parts: list[tuple[DayYield, ...]], order: random.Random
):
    assert pooled(parts) == pooled(order.sample(parts, len(parts)))
    everything = [day for part in parts for day in part]
    assert sum(day.units for day in pooled(parts)) == pytest.approx(sum(day.units for day in everything))


def test_the_parts_of_a_day_count_as_one_day():
    whole = ArmRecord("a", "search", days=(DayYield(1, 100, 40),))
    halves = ArmRecord("a", "search", days=(DayYield(1, 50, 10), DayYield(1, 50, 30)))
    assert allocate([whole], seed=0) == allocate([halves], seed=0)


def test_a_wide_interval_is_capped_and_a_narrow_one_is_not():
    unknown = [ArmRecord("best", "search", 50.0), ArmRecord("b", "search"), ArmRecord("c", "search")]
    best = shares_of(unknown, cap=0.4)["best"]
    assert best.share == pytest.approx(0.4)
    assert "capped" in best.reason
    known = [
        ArmRecord(r.name, r.bucket, r.prior_yield, (DayYield(1, 50, 50 * r.prior_yield),)) for r in unknown
    ]
    best = shares_of(known, cap=0.4)["best"]
    assert best.share > 0.85
    assert best.high < 2 * best.low


def test_an_unhealthy_arm_gets_its_part_of_the_floor():
    records = [ArmRecord("odd", "search", 100.0, health=0.1), *(ArmRecord(n, "search") for n in "abcd")]
    assert shares_of(records)["odd"].share == pytest.approx(0.1 / 5)


def test_if_no_arm_is_healthy_all_are_tried_alike():
    records = [ArmRecord(name, "search", 1 + k, health=0.0) for k, name in enumerate("abcd")]
    assert [share.share for share in shares_of(records).values()] == pytest.approx([0.25] * 4)


def test_the_scale_of_the_priors_is_learnt_from_the_other_arms():
    tried = [
        ArmRecord("a", "search", 2.0, (DayYield(1, 50, 1000),)),
        ArmRecord("b", "search", 1.0, (DayYield(1, 50, 500),)),
    ]
    untried = ArmRecord("c", "search", 1.0)
    shares = shares_of([*tried, untried])
    assert shares["c"].expected == pytest.approx(shares["b"].expected, rel=0.5)
    assert shares_of([untried])["c"].expected < 1


def test_old_days_fade():
    good_once = (DayYield(20, 100, 1000), DayYield(1, 100, 10))
    good_now = (DayYield(20, 100, 10), DayYield(1, 100, 1000))
    shares = shares_of(
        [ArmRecord("once", "search", days=good_once), ArmRecord("now", "search", days=good_now)]
    )
    assert shares["now"].share > 0.9


def test_what_is_not_judged_yet_is_no_failure():
    early = ArmRecord("new", "search", days=(DayYield(0, 100, 3, judged_share=0.03),))
    late = ArmRecord("old", "search", days=(DayYield(0, 100, 100),))
    shares = shares_of([early, late])
    assert shares["new"].expected == pytest.approx(shares["old"].expected, rel=0.5)


def test_arms_that_are_equally_good_share():
    records = [ArmRecord(name, "search", days=(DayYield(1, 50, 300),)) for name in "ab"]
    assert shares_of(records)["a"].share == pytest.approx(0.5, abs=0.05)


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="more than 1"):
        shares_of([ArmRecord("a", "s", pinned=0.7), ArmRecord("b", "s", pinned=0.7)])
    with pytest.raises(ValueError, match="same name"):
        allocate([ArmRecord("a", "s"), ArmRecord("a", "s")], seed=0)
    with pytest.raises(ValueError, match="prior_yield"):
        shares_of([ArmRecord("a", "s", 0.0)])
    with pytest.raises(ValueError, match="impossible day"):
        shares_of([ArmRecord("a", "s", days=(DayYield(1, -1, 0),))])
    with pytest.raises(ValueError, match="returns"):
        AllocationSettings(returns=1.0)


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1), min_size=1), st.integers(0, 200))
def test_asks_follow_the_shares(weights: dict[str, float], n: int):
    total = sum(weights.values())
    shares = {arm: weight / total for arm, weight in weights.items()}
    taken = largest_deficit(shares, {}, n)
    assert sum(taken.values()) == n
    for arm, share in shares.items():
        assert abs(taken.get(arm, 0) - share * n) < len(shares)


def test_an_arm_that_is_behind_catches_up():
    assert largest_deficit({"a": 0.5, "b": 0.5}, {"a": 10, "b": 4}, 6) == {"b": 6}
    assert largest_deficit({"a": 0.0}, {}, 3) == {}
