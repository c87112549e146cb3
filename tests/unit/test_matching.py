"""Matching, against a matcher that looks at every pattern."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from maia.learning import matching
from maia.learning.evidence import Counts
from maia.learning.known_patterns import KnownPattern, known
from maia.learning.matching import Matcher
from maia.learning.observations import Scalar
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from tests.believed import NOW, name_of, names_of, pattern, where

DAY = timedelta(days=1)
HALF_LIFE = 30 * DAY
HUGE = 2**53


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


@pytest.fixture(autouse=True, scope="module")
def small_tiers() -> Iterator[None]:
    """Look at few patterns first, so that there are others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_TIERS", (1, 2, 3))
        yield


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

    @rule(names=st.lists(st.integers(0, 12), max_size=8, unique=True), found=stated, context=contexts)
    def merge(
        self, names: list[int], found: tuple[list[Condition], Counts], context: dict[str, Scalar]
    ) -> None:
        fresh = self.matcher.update(*self.made(names, found))
        self.model.update({each.id: each for each in self.made(names, found) if each not in fresh})
        self.matcher.match(context, NOW)
        merging = self.matcher.merging(fresh)
        agrees(self.matcher, list(self.model.values()), context)
        merging.build()
        agrees(self.matcher, list(self.model.values()), context)
        self.matcher.finish(merging)
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
    patterns = [pattern(f"p{n}", where(x=1)) for n in range(5)]
    matcher = Matcher(patterns)
    assert len(matcher.match({"x": 1}, NOW)) == 5
    matcher.remove(*(each.id for each in patterns[:2]))
    assert set(names_of(matcher.match({"x": 1}, NOW))) == {"p2", "p3", "p4"}


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
