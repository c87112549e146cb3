"""Matching and recommending, against a matcher that looks at every pattern, and against simulated rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from maia.learning.evidence import Counts, Prior, confidence, interval, strength
from maia.learning.matching import KnownPattern, Match, Matcher, Worth, known
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator, Pattern, PatternType

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HALF_LIFE = 30 * DAY
HUGE = 2**53


def where(**fields: Any) -> tuple[Condition, ...]:
    return tuple(Condition(name, Operator.EQUALS, value) for name, value in fields.items())


def pattern(
    name: str,
    conditions: Sequence[Condition] = (),
    pos: int = 20,
    neg: int = 0,
    reward: float = 0.0,
    *,
    action: str | None = None,
    last_seen: datetime | None = NOW,
    **data: object,
) -> KnownPattern:
    stated = Pattern(PatternType.TOOL_USAGE, {"name": name}, f"says {name}", tuple(conditions), action, data)
    return known([(stated, Counts(pos, neg, reward, last_seen))])[0]


def name_of(match: Match) -> object:
    return match.known.pattern.signature["name"]


def names_of(matches: Sequence[Match]) -> list[object]:
    return [name_of(each) for each in matches]


# Believing


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_confidence_is_that_of_the_evidence(pairs: list[tuple[int, int]]) -> None:
    prior = Prior(2.0, 1.0)
    stated = [Pattern(PatternType.ANOMALY, {"n": n}, "s") for n in range(len(pairs))]
    made = known(
        [(each, Counts(*pair)) for each, pair in zip(stated, pairs, strict=True)],
        prior,
        [p.id for p in stated[:1]],
    )
    assert [each.id for each in made] == [each.id for each in stated]
    assert [each.pinned for each in made] == [n == 0 for n in range(len(pairs))]
    for each, (pos, neg) in zip(made, pairs, strict=True):
        assert each.strength == pytest.approx(float(strength(pos, neg, prior)))
        assert each.confidence == pytest.approx(float(confidence(pos, neg, prior)))
        assert each.ceiling == pytest.approx(float(interval(pos, neg, prior)[1]))
        assert each.support == pos + neg


# Matching


def brute_force(
    patterns: Sequence[KnownPattern], context: Mapping[str, Scalar], limit: int, min_confidence: float
) -> list[tuple[float, str]]:
    """The best matches by looking at each pattern."""
    found = []
    for each in patterns:
        conditions = each.pattern.conditions
        met = sum(condition.holds(context) for condition in conditions)
        if not met or each.confidence < min_confidence:
            continue
        age = 0.0 if each.last_seen is None else max((NOW - each.last_seen) / HALF_LIFE, 0)
        recency = 0.0 if each.last_seen is None else 2**-age
        score = round(met / len(conditions) * each.confidence * recency, 12)
        found.append((-score, -each.support, each.id))
    return [(-score, id_) for score, _, id_ in sorted(found)[:limit]]


fields = st.sampled_from(["a", "b", "c"])
numbers = st.one_of(
    st.integers(-2, 3),
    st.sampled_from([0.5, -0.0, 1.0, 2.5, math.inf, HUGE, HUGE + 1, float(HUGE), 10**400]),
)
plain = st.one_of(st.none(), st.booleans(), numbers, st.sampled_from(["x", "y", "1", ""]))
conditions = st.one_of(
    st.builds(Condition, fields, st.sampled_from([Operator.EQUALS, Operator.DIFFERS]), plain),
    st.builds(Condition, fields, st.sampled_from([*Operator][2:]), st.one_of(numbers, st.just(math.nan))),
)
contexts = st.dictionaries(fields, plain, max_size=3)
counts = st.builds(
    Counts,
    st.integers(0, 30),
    st.integers(0, 3),
    st.just(0.0),
    st.one_of(st.none(), st.integers(-3, 100).map(lambda days: NOW - days * DAY)),
)
stated = st.tuples(st.lists(conditions, max_size=4), counts)


def all_of(found: Sequence[tuple[list[Condition], Counts]]) -> list[KnownPattern]:
    return known(
        [
            (Pattern(PatternType.TASK_SEQUENCE, {"n": n}, f"pattern {n}", tuple(each)), evidence)
            for n, (each, evidence) in enumerate(found)
        ]
    )


def agrees(
    matcher: Matcher,
    patterns: Sequence[KnownPattern],
    context: Mapping[str, Scalar],
    limit: int = 50,
    min_confidence: float = 0.0,
) -> None:
    matches = matcher.match(context, NOW, limit, min_confidence)
    expected = brute_force(patterns, context, limit, min_confidence)
    assert [each.known.id for each in matches] == [id_ for _, id_ in expected]
    assert [each.score for each in matches] == pytest.approx([score for score, _ in expected])
    for each in matches:
        assert all(condition.holds(context) for condition in each.met)
        assert not any(condition.holds(context) for condition in each.missed)
        assert sorted(map(repr, each.met + each.missed)) == sorted(map(repr, each.known.pattern.conditions))


@settings(deadline=None)
@given(
    st.lists(stated, max_size=25),
    contexts,
    st.integers(0, 8),
    st.sampled_from([0.0, 0.3, 0.7]),
    st.integers(0, 25),
)
def test_matches_are_those_of_brute_force(
    found: list[tuple[list[Condition], Counts]],
    context: dict[str, Scalar],
    limit: int,
    min_confidence: float,
    first: int,
) -> None:
    patterns = all_of(found)
    matcher = Matcher(patterns[:first])
    agrees(matcher, patterns[:first], context)
    matcher.add(*patterns[first:])
    agrees(matcher, patterns, context, limit, min_confidence)


class Changes(RuleBasedStateMachine):
    """A matcher whose patterns come, change and go is always that of the patterns it has now."""

    def __init__(self) -> None:
        super().__init__()
        self.matcher = Matcher()
        self.model: dict[str, KnownPattern] = {}

    def made(self, names: Sequence[int], found: tuple[list[Condition], Counts]) -> list[KnownPattern]:
        return known(
            [
                (Pattern(PatternType.TASK_SEQUENCE, {"n": n}, f"pattern {n}", tuple(found[0])), found[1])
                for n in names
            ]
        )

    @rule(names=st.lists(st.integers(0, 12), max_size=8, unique=True), found=stated)
    def add(self, names: list[int], found: tuple[list[Condition], Counts]) -> None:
        fresh = self.made(names, found)
        self.matcher.add(*fresh)
        self.model.update({each.id: each for each in fresh})

    @rule(n=st.integers(0, 12), evidence=counts)
    def gain_evidence(self, n: int, evidence: Counts) -> None:
        id_ = Pattern(PatternType.TASK_SEQUENCE, {"n": n}, "").id
        if each := self.model.get(id_):
            (self.model[id_],) = known([(each.pattern, evidence)])
            self.matcher.add(self.model[id_])

    @rule(names=st.lists(st.integers(0, 12), max_size=8))
    def remove(self, names: list[int]) -> None:
        ids = [Pattern(PatternType.TASK_SEQUENCE, {"n": n}, "").id for n in names]
        self.matcher.remove(*ids)
        for each in ids:
            self.model.pop(each, None)

    @rule(names=st.lists(st.integers(0, 12), max_size=8, unique=True), found=stated)
    def replace(self, names: list[int], found: tuple[list[Condition], Counts]) -> None:
        fresh = self.made(names, found)
        self.matcher.replace(fresh)
        self.model = {each.id: each for each in fresh}

    @rule(context=contexts)
    def match(self, context: dict[str, Scalar]) -> None:
        agrees(self.matcher, list(self.model.values()), context)

    @invariant()
    def knows_the_same(self) -> None:
        assert len(self.matcher) == len(self.model)
        assert {each.id: each for each in self.matcher} == self.model
        assert all(id_ in self.matcher for id_ in self.model)


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


def test_ranking_is_by_share_confidence_and_recency() -> None:
    both = where(error="quota", hour=3)
    matcher = Matcher(
        [
            pattern("whole", both),
            pattern("half", where(error="quota", hour=4)),
            pattern("unsure", both, pos=10, neg=10),
            pattern("old", both, last_seen=NOW - 30 * DAY),
            pattern("never seen", both, last_seen=None),
            pattern("elsewhere", where(error="network")),
            pattern("anywhere"),
        ]
    )
    matches = matcher.match({"error": "quota", "hour": 3}, NOW)
    assert matches[0].score == pytest.approx(matches[0].known.confidence)
    assert names_of(matches)[0] == "whole"
    assert set(names_of(matches)[1:4]) == {"half", "old", "unsure"}
    assert names_of(matches)[4] == "never seen"
    half = next(each for each in matches if name_of(each) == "half")
    old = next(each for each in matches if name_of(each) == "old")
    assert half.score == pytest.approx(old.score)
    assert (half.complete, list(map(str, half.missed))) == (False, ["hour = 4"])


def test_what_was_removed_after_a_match_is_found_no_more() -> None:
    patterns = [pattern(f"p{n}", where(x=1), action=f"a{n}") for n in range(5)]
    matcher = Matcher(patterns)
    assert len(matcher.match({"x": 1}, NOW)) == 5
    matcher.remove(*(each.id for each in patterns[:2]))
    assert set(names_of(matcher.match({"x": 1}, NOW))) == {"p2", "p3", "p4"}
    assert set(advice(matcher, {"x": 1})) == {"a2", "a3", "a4"}
    matcher.remove(*(each.id for each in patterns))
    assert matcher.recommend({"x": 1}, NOW).reason == "Nothing has been learnt yet."


def test_ties_go_by_support_then_by_id() -> None:
    patterns = [pattern(f"p{n}", where(x=1), pos=0, last_seen=None) for n in range(30)]
    patterns += [pattern(f"q{n}", where(x=1), pos=0, neg=5, last_seen=None) for n in range(3)]
    matches = Matcher(patterns).match({"x": 1}, NOW, limit=6)
    assert {name_of(each) for each in matches[:3]} == {"q0", "q1", "q2"}
    assert [each.known.id for each in matches[3:]] == sorted(each.id for each in patterns[:30])[:3]


def test_what_another_clock_saw_later_counts_as_seen_now() -> None:
    matcher = Matcher([pattern("ahead", where(x=1), last_seen=NOW + DAY)])
    assert matcher.match({"x": 1}, NOW)[0].score == pytest.approx(matcher.match({"x": 1}, NOW + DAY)[0].score)


def test_true_is_not_one() -> None:
    matcher = Matcher([pattern("flag", where(x=True)), pattern("number", where(x=1))])
    assert names_of(matcher.match({"x": True}, NOW)) == ["flag"]
    assert names_of(matcher.match({"x": 1.0}, NOW)) == ["number"]


def test_a_half_life_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="half-life"):
        Matcher(half_life=timedelta())


# Recommending


def advice(matcher: Matcher, context: Mapping[str, Scalar], **options: Any) -> list[str]:
    return [each.action for each in matcher.recommend(context, NOW, **options).actions]


def test_actions_are_ranked_by_reward_per_cost() -> None:
    matcher = Matcher(
        [
            pattern("a", where(task="search"), 40, 2, 400.0, action="by region"),
            pattern("b", where(task="search"), 40, 2, 4000.0, action="by topic", cost=100),
            pattern("c", where(task="search"), 40, 2, 800.0, action="by channel"),
            pattern("d", where(task="search"), 40, 2, 800.0),
        ]
    )
    found = matcher.recommend({"task": "search"}, NOW)
    assert [each.action for each in found.actions] == ["by channel", "by region", "by topic"]
    assert found.reason is None
    best = found.actions[0]
    assert best.reward == pytest.approx(41 / 44 * 800 / 40)
    assert best.interval_90[0] < best.interval_80[0] < best.reward < best.interval_80[1] < best.interval_90[1]
    assert best.counts.support == 42
    assert best.why == "says c (because task = search)"
    assert found.actions[2].reward == pytest.approx(41 / 44 * 4000 / 40 / 100)
    assert advice(matcher, {"task": "search"}, limit=1) == ["by channel"]


def test_without_rewards_the_chance_to_succeed_counts() -> None:
    found = Matcher([pattern("a", where(error="timeout"), 30, 1, action="retry")]).recommend(
        {"error": "timeout"}, NOW
    )
    (retry,) = found.actions
    assert retry.reward == pytest.approx(31 / 33)
    assert retry.interval_90 == pytest.approx([float(bound) for bound in interval(30, 1)])
    assert retry.drawn is None


def test_nothing_under_the_threshold_is_recommended() -> None:
    unsure = pattern("a", where(x=1), 3, 0, 900.0, action="dare")
    found = Matcher([unsure]).recommend({"x": 1}, NOW)
    assert found.actions == ()
    assert found.reason == (
        f"One pattern would advise something here, but not with enough confidence: the highest is "
        f"{unsure.confidence:.2f}, and 0.70 is needed."
    )
    for seed in range(20):
        assert advice(Matcher([unsure]), {"x": 1}, explore=True, seed=seed) == []
    assert advice(Matcher([unsure], confidence_threshold=0.4), {"x": 1}) == ["dare"]


def test_an_unknown_context_has_no_advice() -> None:
    matcher = Matcher([pattern("a", where(x=1), action="act"), pattern("b", action="always")])
    found = matcher.recommend({"y": 1, "x": 2}, NOW)
    assert found.actions == ()
    assert found.reason == (
        "This context is unknown: no pattern has a condition that it meets (its fields: x, y)."
    )
    assert Matcher().recommend({"x": 1}, NOW).reason == "Nothing has been learnt yet."
    assert Matcher().recommend({}, NOW).reason == "Nothing has been learnt yet."


def test_what_lacks_a_condition_is_named_but_not_recommended() -> None:
    found = Matcher([pattern("a", where(x=1, z=3), action="act")]).recommend({"x": 1}, NOW)
    assert found.actions == ()
    assert found.reason == "No advice fits fully. The nearest is “says a”, which also needs z = 3."


def test_patterns_that_only_describe_advise_nothing() -> None:
    found = Matcher([pattern("a", where(x=1))]).recommend({"x": 1}, NOW)
    assert found.reason == "The patterns that hold here only describe: none of them advises an action."


def test_patterns_that_hold_only_in_part_are_not_said_to_hold() -> None:
    half = [pattern("a", where(x=1, z=3)), pattern("b", where(x=1, y=2), 900)]
    found = Matcher(half).recommend({"x": 1}, NOW)
    assert found.reason == (
        "No pattern holds here in full, and none of those that hold in part advises an action."
    )
    weak = pattern("weak", where(x=1), 1, 5)
    found = Matcher([*half, weak]).recommend({"x": 1}, NOW)
    assert found.reason == "The patterns that hold here only describe: none of them advises an action."


def test_unconditional_advice_holds_where_something_is_known() -> None:
    matcher = Matcher([pattern("a", action="always"), pattern("b", where(x=1), action="if x")])
    assert set(advice(matcher, {"x": 1})) == {"always", "if x"}
    assert advice(matcher, {}) == ["always"]


def test_more_specific_evidence_overrules() -> None:
    general = pattern("general", where(x=1), 100, 5, 500.0, action="act")
    against = pattern("against", where(x=1, y=2), 5, 30, action="act")
    undecided = pattern("undecided", where(x=1, y=3), 2, 1, action="act")
    better = pattern("better", where(x=1, y=4), 30, 0, 900.0, action="act")
    matcher = Matcher([general, against, undecided, better])
    assert advice(matcher, {"x": 1}) == ["act"]
    found = matcher.recommend({"x": 1, "y": 2}, NOW)
    assert found.actions == ()
    assert found.reason == "“says general” would apply, but more specific evidence speaks against it here."
    assert names_of(matcher.recommend({"x": 1, "y": 3}, NOW).actions[0].because) == ["general"]
    assert names_of(matcher.recommend({"x": 1, "y": 4}, NOW).actions[0].because) == ["better"]


def test_patterns_that_may_share_evidence_are_not_added_up() -> None:
    one = pattern("one", where(x=1), 40, 0, 80.0, action="act")
    other = pattern("other", where(y=2), 30, 0, 90.0, action="act")
    (together,) = Matcher([one, other]).recommend({"x": 1, "y": 2}, NOW).actions
    (alone,) = Matcher([one]).recommend({"x": 1, "y": 2}, NOW).actions
    assert (together.interval_90, together.counts) == (alone.interval_90, alone.counts)
    assert set(names_of(together.because)) == {"one", "other"}


def test_exploring_depends_on_the_seed_alone() -> None:
    patterns = [pattern(f"p{n}", where(x=1), 20 + n, 1, 100.0 + n, action=f"a{n}") for n in range(5)]
    one, other = Matcher(patterns), Matcher(reversed(patterns))
    for seed in range(5):
        found = one.recommend({"x": 1}, NOW, explore=True, seed=seed)
        assert found == other.recommend({"x": 1}, NOW, explore=True, seed=seed)
        drawn = [each.drawn or 0 for each in found.actions]
        assert drawn == sorted(drawn, reverse=True)
    assert len({advice(one, {"x": 1}, explore=True, seed=seed)[0] for seed in range(40)}) > 2


def test_exploring_prefers_what_is_better() -> None:
    matcher = Matcher(
        [
            pattern("good", where(x=1), 50, 1, 150.0, action="good"),
            pattern("fair", where(x=1), 50, 1, 100.0, action="fair"),
        ]
    )
    first = [advice(matcher, {"x": 1}, explore=True, seed=seed)[0] for seed in range(200)]
    assert 150 < first.count("good") < 200


# The posterior


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
