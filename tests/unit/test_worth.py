"""The posterior of an action's reward per cost, against simulated rewards."""

from __future__ import annotations

import numpy as np
import pytest

from maia.learning.worth import Worth
from tests.believed import pattern


def test_draws_have_the_quantiles_of_the_interval() -> None:
    worth = Worth(alpha=21, beta=4, successes=20, total=130.0)
    random = np.random.default_rng(1)
    draws = [worth.draw(random) for _ in range(40_000)]
    for mass in (0.8, 0.9):
        tail = (1 - mass) / 2
        low, high = worth.interval(mass)
        assert np.quantile(draws, [tail, 1 - tail]) == pytest.approx([low, high], rel=0.02)
    assert np.mean(draws) == pytest.approx(worth.mean, rel=0.01)


@pytest.mark.parametrize("chance", [0.8, 0.95])
def test_intervals_cover_exponential_rewards(chance: float) -> None:
    """The share of 80 % intervals that hold the true reward a try, over 600 series of 40 tries."""
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(600):
        successes = int(random.binomial(40, chance))
        total = float(random.exponential(3.0, successes).sum())
        low, high = Worth(successes + 1, 41 - successes, successes, total).interval(0.8)
        covered += low <= 3.0 * chance <= high
    assert covered / 600 == pytest.approx(0.8, abs=0.05)


def test_losses_are_mirrored_gains() -> None:
    gain = Worth(11, 2, 10, 50.0)
    loss = Worth(11, 2, 10, -50.0)
    assert loss.mean == -gain.mean
    assert loss.interval(0.8) == pytest.approx([-bound for bound in reversed(gain.interval(0.8))])


def test_costs_that_are_none_count_as_one() -> None:
    for cost in (0, -3, "high", True, None):
        assert Worth.of(pattern("p", pos=10, reward=20.0, cost=cost)).mean == pytest.approx(11 / 12 * 2)
    assert Worth.of(pattern("p", pos=10, cost=4)).mean == pytest.approx(11 / 12 / 4)
