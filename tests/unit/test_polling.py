from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.polling import (
    DEFAULTS,
    ChannelEvidence,
    PollingSettings,
    first_look,
    growing_share,
    interval_h,
    mean_age_h,
    observe,
    rate_per_h,
    spacing,
    value_per_h,
)

channels = st.lists(st.tuples(st.floats(1e-5, 5), st.floats(1e-4, 1)), min_size=1, max_size=50)


@given(channels, st.floats(0.01, 1000))
def test_the_budget_is_met_and_used(drawn: list[tuple[float, float]], budget: float):
    rate, share = (np.array(values) for values in zip(*drawn, strict=True))
    waits = interval_h(rate * share, rate, spacing(rate * share, rate, budget))
    asked = float((1 / waits).sum())
    assert asked <= budget * (1 + 1e-6)
    assert asked >= min(budget, len(rate) / DEFAULTS.shortest_h) * (1 - 1e-3)


@given(channels, st.floats(0.01, 1000), st.lists(st.booleans(), min_size=50, max_size=50))
def test_the_bounds_hold_unless_the_budget_cannot_pay_for_them(
    drawn: list[tuple[float, float]], budget: float, chosen: list[bool]
):
    rate, share = (np.array(values) for values in zip(*drawn, strict=True))
    priority = np.array(chosen[: len(rate)])
    found = spacing(rate * share, rate, budget, priority=priority)
    waits = interval_h(rate * share, rate, found, priority=priority) / found.stretch
    assert (waits >= DEFAULTS.shortest_h).all()
    assert (waits <= DEFAULTS.longest_h).all()
    assert (waits <= np.maximum(10 / rate, DEFAULTS.shortest_h) * (1 + 1e-9)).all()
    assert (waits[priority] <= DEFAULTS.priority_h).all()
    assert found.stretch >= 1


def test_intervals_obey_the_square_root_law():
    value = np.array([1e-4, 4e-4, 16e-4])
    rate = np.full(3, 0.01)
    waits = interval_h(value, rate, spacing(value, rate, 0.3))
    assert waits[0] / waits[1] == pytest.approx(2)
    assert waits[1] / waits[2] == pytest.approx(2)


@given(st.integers(0, 1000))
def test_no_other_intervals_of_the_same_cost_find_growing_uploads_sooner(seed: int):
    random = np.random.default_rng(seed)
    rate, share = random.lognormal(-4, 1, 20), random.beta(0.5, 5, 20)
    value = rate * share
    waits = interval_h(value, rate, spacing(value, rate, 4.0))
    other = 1 / waits * random.lognormal(0, 0.3, 20)
    other = 1 / (other * (1 / waits).sum() / other.sum())
    allowed = (other >= DEFAULTS.shortest_h) & (other <= np.minimum(10 / rate, DEFAULTS.longest_h))
    if allowed.all():
        assert mean_age_h(value, waits) <= mean_age_h(value, other) * (1 + 1e-6)


def test_the_budget_holds_for_a_million_channels():
    random = np.random.default_rng(1)
    evidence = ChannelEvidence(
        random.poisson(3, 1_000_000).astype(float),
        np.full(1_000_000, 300.0),
        random.random(1_000_000),
        np.full(1_000_000, 3.0),
    )
    value, rate = value_per_h(evidence), rate_per_h(evidence)
    waits = interval_h(value, rate, spacing(value, rate, 36_000))
    assert (1 / waits).sum() == pytest.approx(36_000, rel=0.01)


def test_a_full_feed_tells_the_rate_and_the_share_at_once():
    ages = [24.0 * k + 12 for k in range(15)]
    busy = first_look(ages, [100_000] * 5 + [100] * 10, 500.0, is_full=True)
    assert rate_per_h(busy)[0] == pytest.approx(1 / 24, rel=0.2)
    assert growing_share(busy)[0] == pytest.approx(5 / 15, abs=0.1)
    quiet = first_look([500.0], [10], 500.0, is_full=False, channel_age_h=10_000)
    assert rate_per_h(quiet)[0] < 1 / 300
    assert value_per_h(busy)[0] > 20 * value_per_h(quiet)[0]


def test_an_empty_feed_is_a_channel_that_uploads_rarely():
    nothing = first_look([], [], 100.0, is_full=False, channel_age_h=5000)
    assert rate_per_h(nothing)[0] < DEFAULTS.rate_per_h
    assert growing_share(nothing)[0] == pytest.approx(DEFAULTS.growing_share)


def test_hidden_views_are_no_evidence_of_growth():
    hidden = first_look([10.0, 20.0], [None, None], 100.0, is_full=False)
    assert hidden.judged[0] == 0
    assert growing_share(hidden)[0] == pytest.approx(DEFAULTS.growing_share)


def test_looks_without_uploads_lower_the_rate_and_evidence_fades():
    evidence = observe(ChannelEvidence.none(1), waited_h=[100.0], uploads=[10], growing=[2.0], judged=[4.0])
    before = rate_per_h(evidence)[0]
    for _ in range(10):
        evidence = observe(evidence, waited_h=[72.0], uploads=[0])
    assert rate_per_h(evidence)[0] < before / 4
    assert evidence.judged[0] == pytest.approx(4 * 2 ** (-720 / DEFAULTS.half_life_h))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=6))
def test_evidence_merges_in_any_order(looks: list[tuple[int, int, int]]):
    none = ChannelEvidence.none(1)
    parts = [
        observe(none, waited_h=[float(h)], uploads=[u], growing=[min(u, 1)], judged=[u]) for u, _, h in looks
    ]
    forwards, backwards = none, none
    for part in parts:
        forwards = forwards + part
    for part in reversed(parts):
        backwards = backwards + part
    assert rate_per_h(forwards) == pytest.approx(rate_per_h(backwards))
    assert growing_share(forwards) == pytest.approx(growing_share(backwards))


def test_no_channel_and_no_budget():
    assert interval_h([0.001], [0.1], spacing([], [], 1.0)) == [DEFAULTS.shortest_h]
    with pytest.raises(ValueError, match="budget"):
        spacing([1.0], [1.0], 0.0)
    with pytest.raises(ValueError, match="in order"):
        PollingSettings(shortest_h=1.0)
