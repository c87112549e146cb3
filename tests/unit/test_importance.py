"""An economy of attention: rent and wages, and what is forgotten first."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.importance import ECONOMY, WAGE, Economy, Importance, Use, aged, forget, paid

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = 24 * HOUR
NOTHING = Importance(0.0, 0.0, NOW)

amounts = st.floats(0, 1e6)
hours = st.floats(0, 5000)


def importance(sti: float = 0.0, lti: float = 0.0, at: datetime = NOW) -> Importance:
    return Importance(sti, lti, at)


@given(amounts, amounts, hours, hours)
def test_it_makes_no_difference_how_often_rent_is_charged(
    sti: float, lti: float, one: float, two: float
) -> None:
    at_once = ECONOMY.after(sti, lti, one + two)
    in_two = ECONOMY.after(*ECONOMY.after(sti, lti, one), two)
    assert np.allclose(at_once, in_two, rtol=1e-9, atol=1e-9)


@given(amounts, amounts, amounts, amounts, hours)
def test_importances_add_up(sti: float, lti: float, sti2: float, lti2: float, passed: float) -> None:
    apart = np.add(ECONOMY.after(sti, lti, passed), ECONOMY.after(sti2, lti2, passed))
    assert np.allclose(apart, ECONOMY.after(sti + sti2, lti + lti2, passed), rtol=1e-9, atol=1e-9)


def test_the_solution_solves_the_equations() -> None:
    """Against small steps of sti' = −rent·sti and lti' = learning·(sti − lti)."""
    sti, lti, step = 80.0, 3.0, 0.001
    for _ in range(int(30 / step)):
        sti, lti = (
            sti - ECONOMY.rent_per_hour * sti * step,
            lti + ECONOMY.learning_per_hour * (sti - lti) * step,
        )
    assert np.allclose(ECONOMY.after(80, 3, 30), (sti, lti), rtol=1e-4)


def test_many_patterns_are_charged_at_once() -> None:
    sti, lti = ECONOMY.after([0, 10, 100], [5, 5, 5], [1, 10, 1000])
    for n, (short, long, passed) in enumerate([(0, 5, 1), (10, 5, 10), (100, 5, 1000)]):
        assert (sti[n], lti[n]) == pytest.approx(ECONOMY.after(short, long, passed))


def test_lti_follows_sti_slowly() -> None:
    used = paid(None, {Use.PROVEN: 1}, NOW)
    assert used == Importance(5 * WAGE, 0.0, NOW)
    later = aged(used, NOW + 20 * HOUR)
    assert later.sti == pytest.approx(50 / math.e)
    assert 0 < later.lti < 0.05 * used.sti
    assert aged(used, NOW + 60 * DAY).lti < aged(used, NOW + 5 * DAY).lti


def test_wages_depend_on_the_use() -> None:
    wages = [float(ECONOMY.wages({use: 1})) for use in (Use.MATCHED, Use.RECOMMENDED, Use.PROVEN)]
    assert wages == sorted(wages)
    assert wages[0] == WAGE
    both = ECONOMY.wages({Use.MATCHED: np.array([0, 1, 2]), Use.PROVEN: np.array([1, 0, 0])})
    assert both.tolist() == [50, 10, 20]
    assert float(ECONOMY.wages({})) == 0


def test_uses_are_worth_the_same_together_as_apart() -> None:
    together = paid(NOTHING, {Use.MATCHED: 3}, NOW)
    apart = NOTHING
    for _ in range(3):
        apart = paid(apart, {Use.MATCHED: 1}, NOW)
    assert apart == together


def test_clocks_that_go_back_change_nothing() -> None:
    before = importance(10, 1)
    assert aged(before, NOW - DAY) == before
    assert paid(before, {Use.MATCHED: 1}, NOW - DAY) == importance(20, 1)


def test_regular_use_beats_a_burst_that_is_over() -> None:
    burst = paid(None, {Use.MATCHED: 30}, NOW - 60 * DAY)
    regular = paid(None, {Use.MATCHED: 1}, NOW - 60 * DAY)
    for day in range(58, -1, -2):
        regular = paid(regular, {Use.MATCHED: 1}, NOW - day * DAY)
    assert forget({"burst": burst, "regular": regular}, 1, NOW) == ["burst"]


def test_the_least_important_are_forgotten_first() -> None:
    known = {"a": importance(lti=3), "b": importance(lti=1), "c": importance(lti=2)}
    assert forget(known, 3, NOW) == []
    assert forget(known, 2, NOW) == ["b"]
    assert forget(known, 0, NOW) == ["b", "c", "a"]
    assert forget({}, 0, NOW) == []


def test_pinned_patterns_stay() -> None:
    known = {"a": importance(lti=3), "b": importance(lti=1), "c": importance(lti=2)}
    assert forget(known, 1, NOW, pinned=["b"]) == ["c", "a"]
    assert forget(known, 0, NOW, pinned=["a", "b", "c"]) == []
    assert forget(known, 1, NOW, pinned=["a", "b", "unknown"]) == ["c"]


def test_ties_are_broken_by_id() -> None:
    assert forget(dict.fromkeys("cab", NOTHING), 1, NOW) == ["a", "b"]


def test_new_patterns_are_not_forgotten_for_being_new() -> None:
    fresh = paid(None, {Use.PROVEN: 1}, NOW)
    stale = importance(lti=0.5, at=NOW - 40 * DAY)
    assert fresh.lti < aged(stale, NOW).lti
    assert forget({"fresh": fresh, "stale": stale}, 1, NOW) == ["stale"]


def test_importances_of_different_instants_are_compared_now() -> None:
    known = {"old": importance(lti=2.0, at=NOW - 90 * DAY), "recent": importance(lti=1.0)}
    assert forget(known, 1, NOW) == ["old"]


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.tuples(amounts, amounts), max_size=12),
    st.integers(0, 12),
    st.sets(st.text("abc", min_size=1, max_size=4), max_size=4),
)
def test_as_many_remain_as_may(values: dict[str, tuple[float, float]], most: int, pinned: set[str]) -> None:
    known = {name: importance(*value) for name, value in values.items()}
    gone = forget(known, most, NOW, pinned)
    assert len(set(gone)) == len(gone)
    assert not pinned & set(gone)
    assert len(known) - len(gone) == max(min(most, len(known)), len(pinned & known.keys()))


@pytest.mark.parametrize(
    "rates", [{"wage": 0}, {"rent_per_hour": 0.001}, {"learning_per_hour": 0}, {"learning_per_hour": 0.05}]
)
def test_an_economy_that_cannot_work_is_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Economy(**rates)
    with pytest.raises(ValueError, match="negative"):
        forget({}, -1, NOW)
