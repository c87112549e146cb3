"""Recommending actions by what patterns say they bring, and the reasons for recommending none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from maia.learning.evidence import interval
from maia.learning.known_patterns import KnownPattern
from maia.learning.matching import Matcher
from maia.learning.observations import Scalar
from maia.learning.recommending import Adviser
from tests.believed import NOW, names_of, pattern, where


def advised_by(patterns: Iterable[KnownPattern] = (), **options: Any) -> Adviser:
    return Adviser(Matcher(patterns), **options)


def advice(adviser: Adviser, context: Mapping[str, Scalar], **options: Any) -> list[str]:
    return [each.action for each in adviser.recommend(context, NOW, **options).actions]


def test_actions_are_ranked_by_reward_per_cost() -> None:
    adviser = advised_by(
        [
            pattern("a", where(task="search"), 40, 2, 400.0, action="by region"),
            pattern("b", where(task="search"), 40, 2, 4000.0, action="by topic", cost=100),
            pattern("c", where(task="search"), 40, 2, 800.0, action="by channel"),
            pattern("d", where(task="search"), 40, 2, 800.0),
        ]
    )
    found = adviser.recommend({"task": "search"}, NOW)
    assert [each.action for each in found.actions] == ["by channel", "by region", "by topic"]
    assert found.reason is None
    best = found.actions[0]
    assert best.reward == pytest.approx(41 / 44 * 800 / 40)
    assert best.interval_90[0] < best.interval_80[0] < best.reward < best.interval_80[1] < best.interval_90[1]
    assert best.counts.support == 42
    assert best.why == "says c (because task = search)"
    assert found.actions[2].reward == pytest.approx(41 / 44 * 4000 / 40 / 100)
    assert advice(adviser, {"task": "search"}, limit=1) == ["by channel"]


def test_without_rewards_the_chance_to_succeed_counts() -> None:
    found = advised_by([pattern("a", where(error="timeout"), 30, 1, action="retry")]).recommend(
        {"error": "timeout"}, NOW
    )
    (retry,) = found.actions
    assert retry.reward == pytest.approx(31 / 33)
    assert retry.interval_90 == pytest.approx([float(bound) for bound in interval(30, 1)])
    assert retry.drawn is None


def test_nothing_under_the_threshold_is_recommended() -> None:
    unsure = pattern("a", where(x=1), 3, 0, 900.0, action="dare")
    found = advised_by([unsure]).recommend({"x": 1}, NOW)
    assert found.actions == ()
    assert found.reason == (
        f"One pattern would advise something here, but not with enough confidence: the highest is "
        f"{unsure.confidence:.2f}, and 0.70 is needed."
    )
    for seed in range(20):
        assert advice(advised_by([unsure]), {"x": 1}, explore=True, seed=seed) == []
    assert advice(advised_by([unsure], confidence_threshold=0.4), {"x": 1}) == ["dare"]


def test_an_unknown_context_has_no_advice() -> None:
    adviser = advised_by([pattern("a", where(x=1), action="act"), pattern("b", action="always")])
    found = adviser.recommend({"y": 1, "x": 2}, NOW)
    assert found.actions == ()
    assert found.reason == (
        "This context is unknown: no pattern has a condition that it meets (its fields: x, y)."
    )
    assert advised_by().recommend({"x": 1}, NOW).reason == "Nothing has been learnt yet."
    assert advised_by().recommend({}, NOW).reason == "Nothing has been learnt yet."


def test_what_lacks_a_condition_is_named_but_not_recommended() -> None:
    found = advised_by([pattern("a", where(x=1, z=3), action="act")]).recommend({"x": 1}, NOW)
    assert found.actions == ()
    assert found.reason == "No advice fits fully. The nearest is “says a”, which also needs z = 3."


def test_patterns_that_only_describe_advise_nothing() -> None:
    found = advised_by([pattern("a", where(x=1))]).recommend({"x": 1}, NOW)
    assert found.reason == "The patterns that hold here only describe: none of them advises an action."


def test_patterns_that_hold_only_in_part_are_not_said_to_hold() -> None:
    half = [pattern("a", where(x=1, z=3)), pattern("b", where(x=1, y=2), 900)]
    found = advised_by(half).recommend({"x": 1}, NOW)
    assert found.reason == (
        "No pattern holds here in full, and none of those that hold in part advises an action."
    )
    weak = pattern("weak", where(x=1), 1, 5)
    found = advised_by([*half, weak]).recommend({"x": 1}, NOW)
    assert found.reason == "The patterns that hold here only describe: none of them advises an action."


def test_unconditional_advice_holds_where_something_is_known() -> None:
    adviser = advised_by([pattern("a", action="always"), pattern("b", where(x=1), action="if x")])
    assert set(advice(adviser, {"x": 1})) == {"always", "if x"}
    assert advice(adviser, {}) == ["always"]


def test_more_specific_evidence_overrules() -> None:
    general = pattern("general", where(x=1), 100, 5, 500.0, action="act")
    against = pattern("against", where(x=1, y=2), 5, 30, action="act")
    undecided = pattern("undecided", where(x=1, y=3), 2, 1, action="act")
    better = pattern("better", where(x=1, y=4), 30, 0, 900.0, action="act")
    adviser = advised_by([general, against, undecided, better])
    assert advice(adviser, {"x": 1}) == ["act"]
    found = adviser.recommend({"x": 1, "y": 2}, NOW)
    assert found.actions == ()
    assert found.reason == "“says general” would apply, but more specific evidence speaks against it here."
    assert names_of(adviser.recommend({"x": 1, "y": 3}, NOW).actions[0].because) == ["general"]
    assert names_of(adviser.recommend({"x": 1, "y": 4}, NOW).actions[0].because) == ["better"]


def test_patterns_that_may_share_evidence_are_not_added_up() -> None:
    one = pattern("one", where(x=1), 40, 0, 80.0, action="act")
    other = pattern("other", where(y=2), 30, 0, 90.0, action="act")
    (together,) = advised_by([one, other]).recommend({"x": 1, "y": 2}, NOW).actions
    (alone,) = advised_by([one]).recommend({"x": 1, "y": 2}, NOW).actions
    assert (together.interval_90, together.counts) == (alone.interval_90, alone.counts)
    assert set(names_of(together.because)) == {"one", "other"}


def test_exploring_depends_on_the_seed_alone() -> None:
    patterns = [pattern(f"p{n}", where(x=1), 20 + n, 1, 100.0 + n, action=f"a{n}") for n in range(5)]
    one, other = advised_by(patterns), advised_by(reversed(patterns))
    for seed in range(5):
        found = one.recommend({"x": 1}, NOW, explore=True, seed=seed)
        assert found == other.recommend({"x": 1}, NOW, explore=True, seed=seed)
        drawn = [each.drawn or 0 for each in found.actions]
        assert drawn == sorted(drawn, reverse=True)
    assert len({advice(one, {"x": 1}, explore=True, seed=seed)[0] for seed in range(40)}) > 2


def test_exploring_prefers_what_is_better() -> None:
    adviser = advised_by(
        [
            pattern("good", where(x=1), 50, 1, 150.0, action="good"),
            pattern("fair", where(x=1), 50, 1, 100.0, action="fair"),
        ]
    )
    first = [advice(adviser, {"x": 1}, explore=True, seed=seed)[0] for seed in range(200)]
    assert 150 < first.count("good") < 200


def test_what_was_removed_is_recommended_no_more() -> None:
    patterns = [pattern(f"p{n}", where(x=1), action=f"a{n}") for n in range(5)]
    matcher = Matcher(patterns)
    adviser = Adviser(matcher)
    assert set(advice(adviser, {"x": 1})) == {"a0", "a1", "a2", "a3", "a4"}
    matcher.remove(*(each.id for each in patterns[:2]))
    assert set(advice(adviser, {"x": 1})) == {"a2", "a3", "a4"}
    matcher.remove(*(each.id for each in patterns))
    assert adviser.recommend({"x": 1}, NOW).reason == "Nothing has been learnt yet."
