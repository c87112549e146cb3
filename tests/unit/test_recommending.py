"""Recommending actions by what patterns say they bring, and the reasons for recommending none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning import matching
from maia.learning.evidence import FLAT, Counts, interval
from maia.learning.known_patterns import KnownPattern, known
from maia.learning.matching import HALF_LIFE, Matcher
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from maia.learning.recommending import THRESHOLD, Adviser, Recommendation
from maia.learning.worth import Worth
from tests.believed import NOW, names_of, pattern, where

FEW_PER_ACTION = 3
DAY = timedelta(days=1)


def advised_by(patterns: Iterable[KnownPattern] = (), **options: Any) -> Adviser:
    return Adviser(Matcher(patterns), **options)


def advice(adviser: Adviser, context: Mapping[str, Scalar], **options: Any) -> list[str]:
    return [each.action for each in adviser.recommend(context, NOW, **options).actions]


Advised = tuple[str, float, Counts, float, list[str]]


def plainly(
    patterns: Sequence[KnownPattern], context: Mapping[str, Scalar], limit: int, because: int
) -> list[Advised]:
    """The advice by looking at each pattern."""
    if context and not any(held.holds(context) for each in patterns for held in each.pattern.conditions):
        return []
    decided: defaultdict[str, list[KnownPattern]] = defaultdict(list)
    for each in patterns:
        fits = all(condition.holds(context) for condition in each.pattern.conditions)
        if fits and each.pattern.action and (each.confidence >= THRESHOLD or each.ceiling < THRESHOLD):
            decided[each.pattern.action].append(each)
    advised = []
    for action, fitting in decided.items():
        specific = sorted(fitting, key=lambda each: (-len(each.pattern.conditions), -each.support, each.id))
        specific = specific[:FEW_PER_ACTION]
        trusted = [
            each
            for each in specific
            if each.confidence >= THRESHOLD and not any(is_nested(each, other) for other in specific)
        ]
        if trusted:
            best = max(trusted, key=lambda each: (each.support, each.id))
            highest = max(each.confidence for each in trusted)
            named = sorted(trusted, key=lambda each: (-score_of(each), -each.support, each.id))[:because]
            mean = Worth.of(best, FLAT).mean
            advised.append((action, mean, best.counts, highest, [each.id for each in named]))
    return sorted(advised, key=lambda each: (-each[1], -each[2].support, each[0]))[:limit]


def is_nested(one: KnownPattern, other: KnownPattern) -> bool:
    longer = len(one.pattern.conditions) < len(other.pattern.conditions)
    return longer and set(one.pattern.conditions) < set(other.pattern.conditions)


def score_of(each: KnownPattern) -> float:
    if each.last_seen is None:
        return 0.0
    return round(each.confidence * 2 ** -max((NOW - each.last_seen) / HALF_LIFE, 0), 12)


def as_advised(each: Recommendation) -> Advised:
    return each.action, each.reward, each.counts, each.confidence, [match.known.id for match in each.because]


fields = st.sampled_from("abc")
values = st.sampled_from([0, 1, 2, True, "x", None])
conditions = st.one_of(
    st.builds(
        Condition, st.sampled_from("abc"), st.sampled_from([Operator.EQUALS, Operator.DIFFERS]), values
    ),
    st.builds(Condition, fields, st.sampled_from([*Operator][2:]), st.integers(0, 2)),
)
counts = st.builds(
    Counts,
    st.sampled_from([0, 20, 21]),
    st.sampled_from([0, 0, 1, 9]),
    st.sampled_from([0.0, 50.0]),
    st.sampled_from([None, NOW + DAY, NOW, NOW - DAY, NOW - 30 * DAY]),
)
stated = st.tuples(st.lists(conditions, max_size=3), st.sampled_from(["go", "go", "wait", None]), counts)
contexts = st.dictionaries(fields, values, max_size=3)


def all_of(found: Sequence[tuple[list[Condition], str | None, Counts]]) -> list[KnownPattern]:
    return known(
        [
            (Pattern(PatternType.TOOL_USAGE, {"n": n}, f"pattern {n}", tuple(each), action), evidence)
            for n, (each, action, evidence) in enumerate(found)
        ]
    )


@pytest.fixture
def few_per_action() -> Iterator[None]:
    """Let few patterns fit an action, so that there are others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "MOST_PER_ACTION", FEW_PER_ACTION)
        yield


@pytest.mark.usefixtures("few_per_action")
@settings(deadline=None)
@given(
    st.lists(stated, min_size=12, max_size=40),
    st.lists(contexts, min_size=1, max_size=4),
    st.integers(0, 5),
    st.integers(1, 3),
    st.integers(1, 4),
    st.data(),
)
def test_the_advice_is_that_of_looking_at_each_pattern(
    found: list[tuple[list[Condition], str | None, Counts]],
    asked: list[dict[str, Scalar]],
    later: int,
    limit: int,
    because: int,
    data: st.DataObject,
) -> None:
    patterns, earlier = all_of(found), all_of([(each, None, Counts(1)) for each, _, _ in found])
    # Some come later, into a segment of their own; some get their action and evidence later; some go.
    first = len(patterns) - later
    changed = data.draw(st.integers(0, first))
    matcher = Matcher([*earlier[:changed], *patterns[changed:first]])
    adviser = Adviser(matcher)
    adviser.recommend(asked[0], NOW)
    matcher.add(*patterns[:changed], *patterns[first:])
    gone = data.draw(st.sets(st.sampled_from([each.id for each in patterns]), max_size=3))
    matcher.remove(*gone)
    left = [each for each in patterns if each.id not in gone]
    for context in asked:
        advised = adviser.recommend(context, NOW, limit, because=because).actions
        assert [as_advised(each) for each in advised] == plainly(left, context, limit, because)
        assert all(match.complete for each in advised for match in each.because)


def test_the_patterns_for_an_action_stay_together_however_many_actions_there_are() -> None:
    rows = np.zeros(400_000, matching.FACTS)
    rows["action"], rows["rank"] = np.arange(len(rows)) % 200_000, np.arange(len(rows))
    rows["total"], rows["support"] = rows["rank"] % 3, rows["rank"] % 7
    order = matching._most_specific(rows)
    keys = -rows["support"].astype(int), -rows["total"].astype(int)
    assert np.array_equal(order, np.lexsort((rows["rank"], *keys, rows["action"])))


def test_the_best_five_patterns_are_named_unless_others_are_asked_for() -> None:
    adviser = advised_by([pattern(f"p{n}", where(x=1), 20 + n, action="go") for n in range(40)])

    def named(**options: int) -> list[object]:
        (go,) = adviser.recommend({"x": 1}, NOW, **options).actions
        assert go.counts.support == 59
        return names_of(go.because)

    assert named() == ["p39", "p38", "p37", "p36", "p35"]
    assert named(because=1) == ["p39"]
    assert named(because=32) == [f"p{n}" for n in range(39, 7, -1)]


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
