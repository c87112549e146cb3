"""What patterns say of discovery's arms, and how far that changes their priors."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.allocation import ArmRecord, allocate
from maia.learning.detectors.tool_usage import ToolUsage
from maia.learning.evidence import confidence
from maia.learning.priors import (
    AGENT,
    GOAL,
    LARGEST_FACTOR,
    ArmPrior,
    LearntYield,
    arm_priors,
    judged_day,
)

BUILTIN = {"search:slices": 4.0, "search:any": 4.0, "search:date": 2.0}
DAY = date(2026, 9, 1)


def learnt(arm: str, mean: float, days: int = 60, confidence: float = 0.9, id_: str = "a") -> LearntYield:
    return LearntYield(id_ + arm, arm, mean, days, confidence)


def priors(*yields: LearntYield) -> dict[str, ArmPrior]:
    return arm_priors(BUILTIN, yields, least_confidence=0.7)


def test_an_arm_that_brought_more_than_the_others_gets_a_higher_prior():
    found = priors(learnt("search:slices", 8.0), learnt("search:any", 4.0), learnt("search:date", 2.0))
    assert found["search:slices"].factor > 1 > found["search:any"].factor == found["search:date"].factor
    assert found["search:slices"].value == 4.0 * found["search:slices"].factor
    assert found["search:slices"].pattern_id == "asearch:slices"


def test_only_ratios_matter():
    one = priors(learnt("search:slices", 0.08), learnt("search:any", 0.04))
    other = priors(learnt("search:slices", 8.0), learnt("search:any", 4.0))
    assert one["search:slices"].factor == pytest.approx(other["search:slices"].factor)


def test_few_days_change_little():
    few = priors(learnt("search:slices", 8.0, days=1), learnt("search:any", 2.0, days=1))
    many = priors(learnt("search:slices", 8.0), learnt("search:any", 2.0))
    assert 1 < few["search:slices"].factor < 1.2 < many["search:slices"].factor


def test_a_weak_pattern_or_a_single_one_changes_nothing():
    assert priors(learnt("search:slices", 8.0)) == {}
    assert priors(learnt("search:slices", 8.0), learnt("search:any", 4.0, confidence=0.69)) == {}
    assert priors(learnt("search:slices", 8.0), learnt("search:gone", 4.0)) == {}


def test_of_two_patterns_for_an_arm_the_one_with_more_days_counts():
    found = priors(
        learnt("search:any", 4.0), learnt("search:slices", 8.0, 30, id_="b"), learnt("search:slices", 1.0, 90)
    )
    assert (found["search:slices"].pattern_id, found["search:slices"].days) == ("asearch:slices", 90)


@given(st.lists(st.floats(0, 1e9), min_size=3, max_size=3), st.integers(1, 10_000))
def test_no_factor_leaves_its_bounds_and_no_arm_its_part_of_the_exploration(means: list[float], days: int):
    found = priors(*(learnt(arm, mean, days) for arm, mean in zip(BUILTIN, means, strict=True)))
    assert all(each.factor * (1 + 1e-9) >= 1 / LARGEST_FACTOR for each in found.values())
    assert all(each.factor <= LARGEST_FACTOR * (1 + 1e-9) for each in found.values())
    records = [ArmRecord(arm, "search", each.value) for arm, each in found.items()]
    shares = allocate(records, seed=1, explore=0.1)["search"]
    assert all(share.share >= 0.1 / 3 - 1e-9 for share in shares)


def test_judged_days_become_one_pattern_an_arm_with_its_yield_for_the_cost():
    detector = ToolUsage()
    detector.observe(
        [
            judged_day(arm, "search", DAY + timedelta(days=n), units=16.0, growing=growing)
            for n in range(30)
            for arm, growing in (("search:slices", 24.0), ("search:any", 8.0))
        ]
    )
    by_arm = {each.pattern.action: each for each in detector.patterns()}
    assert by_arm.keys() == {"search:slices", "search:any"}
    for arm, mean in (("search:slices", 24 / 16**0.75), ("search:any", 8 / 16**0.75)):
        found = by_arm[arm]
        counts = [sum(getattr(day, name) for day in found.evidence.values()) for name in ("pos", "reward")]
        assert (found.pattern.signature["agent"], found.pattern.signature["task"]) == (AGENT, GOAL)
        assert counts[0] == 30
        assert counts[1] / 30 == pytest.approx(mean)
    assert confidence(30, 0) > 0.7


def test_a_day_without_units_costs_nothing():
    assert judged_day("feeds", "general", DAY, 0.0, 3.0).cost == 0.0
