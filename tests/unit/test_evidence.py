from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from maia.learning.evidence import (
    Counts,
    Evidence,
    EvidenceKey,
    EvidenceRow,
    Prior,
    confidence,
    interval,
    latest,
    merge,
    strength,
    totals,
)
from maia.learning.truth import TruthValue

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = date(2026, 11, 29)
NODES = tuple("abcde")

rows = st.builds(
    EvidenceRow,
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from([-1.5, 0.0, 2.0]),
    st.integers(0, 5).map(lambda hours: NOON + timedelta(hours=hours)),
    st.integers(1, 5),
)
keys = st.builds(
    EvidenceKey, st.sampled_from("pq"), st.sampled_from(NODES), st.sampled_from([DAY, DAY - timedelta(1)])
)
copies = st.dictionaries(keys, rows, max_size=8)


# Counts and rows.


def test_counts_of_disjoint_observations_add_up():
    earlier, later = Counts(1, 2, 0.5, NOON), Counts(3, 0, -1.0, NOON + timedelta(1))
    assert earlier + later == Counts(4, 2, -0.5, NOON + timedelta(1)) == later + earlier
    assert earlier + Counts() == earlier
    assert (earlier + later).support == 6


@pytest.mark.parametrize(("pos", "neg"), [(-1, 0), (0, -1)])
def test_counts_are_never_negative(pos: int, neg: int):
    with pytest.raises(ValueError, match="negative"):
        Counts(pos, neg)


@given(rows, rows, rows)
def test_merging_rows_is_a_join(one: EvidenceRow, two: EvidenceRow, three: EvidenceRow):
    assert one.merge(one) == one
    assert one.merge(two) == two.merge(one)
    assert one.merge(two).merge(three) == one.merge(two.merge(three))
    joined = one.merge(two)
    assert joined.merge(one) == joined
    assert joined.pos >= one.pos
    assert joined.last_seen >= one.last_seen


@given(st.lists(copies, max_size=4))
def test_merging_copies_needs_no_order(each: list[Evidence]):
    merged = merge(*each)
    assert all(merge(*order) == merged for order in permutations(each))
    assert merge(merged, *each, merged) == merged
    assert merge() == {}


def test_the_reward_goes_with_its_version():
    old, new = EvidenceRow(5, 1, 9.0, NOON, 1), EvidenceRow(6, 1, 2.0, NOON, 2)
    assert old.merge(new).sum_reward == 2.0
    assert new.merge(old) == new


# Five nodes.


class Network:
    """Nodes that each count on rows of their own and send copies of all rows that they know."""

    def __init__(self) -> None:
        self.known: dict[str, Evidence] = {node: {} for node in NODES}
        self.truth: dict[str, Counter[str]] = {}
        self.messages: list[tuple[str, Evidence]] = []

    def count(self, node: str, pattern: str, day: date, pos: int, neg: int) -> None:
        key = EvidenceKey(pattern, node, day)
        row = self.known[node].get(key, EvidenceRow(0, 0, 0.0, NOON, 0))
        self.known[node][key] = EvidenceRow(
            row.pos + pos, row.neg + neg, row.sum_reward + pos - neg / 2, NOON, row.version + 1
        )
        self.truth.setdefault(pattern, Counter()).update(pos=pos, neg=neg)

    def send(self, sender: str, receiver: str) -> None:
        self.messages.append((receiver, dict(self.known[sender])))

    def deliver(self, receiver: str, message: Evidence) -> None:
        self.known[receiver] = merge(self.known[receiver], message)


counting = st.tuples(
    st.just("count"), st.sampled_from(NODES), st.sampled_from("pqr"),
    st.sampled_from([DAY, DAY + timedelta(1)]), st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip
sending = st.tuples(st.just("send"), st.sampled_from(NODES), st.sampled_from(NODES))


@settings(max_examples=200)
@given(st.lists(st.one_of(counting, sending), max_size=40), st.data())
def test_any_order_and_repetition_of_messages_gives_the_same_truth(steps: list[tuple], data: st.DataObject):
    """Every message comes 0 to 3 times, in any order and amid the counting; then each node hears of each."""
    network = Network()
    for kind, *details in steps:
        getattr(network, kind)(*details)
        if network.messages and data.draw(st.booleans()):
            network.deliver(*data.draw(st.sampled_from(network.messages)))
    copies_ = data.draw(
        st.lists(st.integers(0, 3), min_size=len(network.messages), max_size=len(network.messages))
    )
    sent = [each for each, times in zip(network.messages, copies_, strict=True) for _ in range(times)]
    for receiver, message in data.draw(st.permutations(sent)):
        network.deliver(receiver, message)
    exchanges = [(one, other) for one in NODES for other in NODES if one != other]
    # Twice in any order: what the first round brings one late node, the second takes to all.
    for sender, receiver in [*data.draw(st.permutations(exchanges)), *data.draw(st.permutations(exchanges))]:
        network.deliver(receiver, network.known[sender])
    first = network.known["a"]
    assert all(network.known[node] == first for node in NODES)
    found = totals(first)
    assert found.keys() == network.truth.keys()
    for pattern, counts in found.items():
        assert (counts.pos, counts.neg) == (network.truth[pattern]["pos"], network.truth[pattern]["neg"])
        assert counts.reward == network.truth[pattern]["pos"] - network.truth[pattern]["neg"] / 2


# What is believed.


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_interval_is_that_of_the_posterior(pos: int, neg: int):
    low, high = interval(pos, neg)
    posterior = beta(pos + 1, neg + 1)
    assert posterior.cdf(low) == pytest.approx(0.05, abs=1e-6)
    assert posterior.cdf(high) == pytest.approx(0.95, abs=1e-6)
    assert confidence(pos, neg) == low
    assert 0 <= low < high <= 1
    assert strength(pos, neg) == pytest.approx(posterior.mean())


def test_confidence_needs_evidence():
    assert confidence(0, 0) == pytest.approx(0.05)
    assert confidence(9, 1) < confidence(90, 10) < confidence(900, 100) < 0.9
    assert confidence(10, 1) > confidence(9, 1) > confidence(9, 2)


def test_confidence_is_computed_for_many_at_once():
    pos, neg = np.array([0, 5, 50]), np.array([3, 5, 1])
    assert confidence(pos, neg) == pytest.approx([confidence(*pair) for pair in zip(pos, neg, strict=True)])


def test_a_prior_counts_as_evidence():
    assert strength(0, 0, Prior(3, 1)) == 0.75
    with pytest.raises(ValueError, match="positive"):
        Prior(0, 1)


def test_the_latest_instant_is_the_last_that_is_known():
    assert latest([None, NOON, NOON - timedelta(1)]) == NOON
    assert latest([None]) is None
    assert latest([]) is None


# Truth values.


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((0.9, 0.9), (0.1, 0.9), (0.5, 0.9419)), ((0.9, 0.5), (0.1, 0.5), (0.5, 0.6429))],
)
def test_revision_discounts_overlapping_evidence(
    one: tuple[float, float], other: tuple[float, float], expected: tuple[float, float]
):
    revised = TruthValue(*one).revised(TruthValue(*other))
    assert (revised.strength, revised.confidence) == pytest.approx(expected, abs=1e-4)


def test_revision_without_evidence_believes_nothing():
    assert TruthValue(0.2, 0).revised(TruthValue(0.6, 0)) == TruthValue(0.4, 0)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_confidence_of_a_truth_value_tells_its_evidence(pos: int, neg: int):
    value = TruthValue.of_counts(pos, neg)
    assert value.evidence() == pytest.approx(pos + neg, rel=1e-6, abs=1e-6)


def test_no_evidence_is_too_much_for_a_truth_value():
    sure = TruthValue.of_counts(2**63, 0)
    assert sure.confidence < 1
    assert sure.revised(sure).confidence < 1


@pytest.mark.parametrize(("strength_", "confidence_"), [(1.1, 0.5), (-0.1, 0.5), (0.5, 1.0), (0.5, -0.1)])
def test_truth_values_have_bounds(strength_: float, confidence_: float):
    with pytest.raises(ValueError, match="must be in"):
        TruthValue(strength_, confidence_)
