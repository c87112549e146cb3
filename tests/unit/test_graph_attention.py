"""Attention over the graph: conservation, bounds, determinism, whenever it is done, and what is forgotten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from maia.graph.arrays import GraphArrays, Texts
from maia.graph.attention import (
    HEBBIAN_MAX_ALLOCATION_PERCENTAGE,
    MAX_SPREAD_PERCENTAGE,
    Spreading,
    attention_gained,
    conductance,
    conductance_of,
    least_important,
    propagate_attention,
)
from maia.learning.importance import ECONOMY


@st.composite
def graphs(draw: st.DrawFn) -> csr_array:
    """Some atoms, among them some without links, with links of both kinds in any number."""
    atoms = draw(st.integers(1, 12))
    place = st.integers(0, atoms - 1)
    link = st.tuples(place, place, st.floats(0, 5), st.booleans())
    links = draw(st.lists(link, max_size=40))
    ends = np.array([each[:2] for each in links], np.int64).reshape(-1, 2).T
    strength = np.array([each[2] for each in links], np.float64)
    kinds = np.array([each[3] for each in links], np.bool_)
    return conductance_of(atoms, ends, strength, kinds)


def wages_for(links: csr_array, seed: int, columns: int = 2) -> np.ndarray:
    random = np.random.default_rng(seed)
    paid = random.random((links.shape[0], columns)) * random.integers(0, 2, (links.shape[0], 1))
    return np.asarray(paid, np.float32)


@settings(max_examples=30)
@given(graphs(), st.integers(0, 1000), st.floats(0, 0.95))
def test_spreading_conserves_and_is_bounded_and_linear(links: csr_array, seed: int, share: float) -> None:
    spreading, wages = Spreading(share), wages_for(links, seed)
    rest = propagate_attention(links, wages, spreading)
    assert rest.shape == wages.shape
    assert rest.dtype == np.float32
    assert rest.sum(axis=0) == pytest.approx(wages.sum(axis=0), rel=1e-5)
    assert (rest >= 0).all()
    # An atom keeps its part of its own wage, and can't have more than was paid.
    assert (rest >= (1 - share) * wages * 0.999).all()
    assert (rest <= wages.sum(axis=0) * 1.0001).all()
    assert (propagate_attention(links, wages, spreading) == rest).all()
    other = wages_for(links, seed + 1)
    together = propagate_attention(links, wages + other, spreading)
    apart = rest + propagate_attention(links, other, spreading)
    assert together == pytest.approx(apart, abs=2e-3 * float(wages.sum() + other.sum()) + 1e-6)
    alone = np.diff(links.indptr) == 0
    assert rest[alone] == pytest.approx(wages[alone])


@settings(max_examples=30)
@given(graphs())
def test_rows_of_conductance_add_up_to_one(links: csr_array) -> None:
    sums, has_links = np.asarray(links.sum(axis=1)).ravel(), np.diff(links.indptr) > 0
    assert sums[has_links] == pytest.approx(np.ones(int(has_links.sum())), rel=1e-5)
    assert not sums[~has_links].any()
    assert not links.diagonal().any()


@settings(max_examples=30)
@given(graphs(), st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=6))
def test_how_often_wages_are_paid_makes_no_difference(
    links: csr_array, stimuli: list[tuple[float, float]]
) -> None:
    """Each wage when it falls due and the state brought up to date each time, or all of them at the end."""
    atoms, end = links.shape[0], 100.0
    places = np.arange(len(stimuli), dtype=np.int64) % atoms
    wages, at = (np.array(column) for column in zip(*stimuli, strict=True))
    at_once = attention_gained(links, places, wages, end - at)
    sti, lti, now = np.zeros(atoms), np.zeros(atoms), 0.0
    for nth in np.argsort(at, kind="stable").tolist():
        sti, lti = ECONOMY.after(sti, lti, at[nth] - now)
        now = at[nth]
        gain = attention_gained(links, places[nth : nth + 1], wages[nth : nth + 1], [0.0])
        sti, lti = sti + gain[0], lti + gain[1]
    sti, lti = ECONOMY.after(sti, lti, end - now)
    tolerance = 1e-3 * float(wages.sum()) + 1e-6
    assert sti == pytest.approx(at_once[0], abs=tolerance)
    assert lti == pytest.approx(at_once[1], abs=tolerance)


def test_a_wage_spreads_by_strength_and_kind() -> None:
    # 0 is linked with 1 (strength 3) and 2 (strength 1), and hebbian with 3; 4 is alone.
    ends = np.array([[0, 0, 0], [1, 2, 3]])
    hebbian = np.array([False, False, True])
    links = conductance_of(5, ends, np.array([3.0, 1.0, 1.0]), hebbian)
    h = HEBBIAN_MAX_ALLOCATION_PERCENTAGE
    assert links.toarray()[0] == pytest.approx([0, 0.75 * (1 - h), 0.25 * (1 - h), h, 0])
    assert links.toarray()[3] == pytest.approx([1, 0, 0, 0, 0])
    rest = propagate_attention(links, np.array([10, 0, 0, 0, 2], np.float32))
    # What comes back from the leaves goes out again: a geometric series.
    kept = 10 * (1 - MAX_SPREAD_PERCENTAGE) / (1 - MAX_SPREAD_PERCENTAGE**2)
    assert rest[0] == pytest.approx(kept, rel=1e-3)
    assert rest[1] / rest[2] == pytest.approx(3)
    assert rest[4] == 2
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            propagate_attention(links, np.array([wrong, 0, 0, 0, 0], np.float32))
    with pytest.raises(ValueError, match="share"):
        Spreading(1.0)


def test_an_empty_graph_spreads_nothing() -> None:
    links = conductance(arrays_with([], []))
    assert links.shape == (0, 0)
    assert propagate_attention(links, np.zeros((0, 2), np.float32)).shape == (0, 2)
    sti, lti = attention_gained(links, np.zeros(0, np.int64), [], [])
    assert not len(sti)
    assert not len(lti)


def arrays_with(types: list[str], outgoing: list[list[int]]) -> GraphArrays:
    """Atoms of these types with these outgoing sets; the n-th was seen n times, once in vain; weight n."""
    n = len(types)
    names = tuple(sorted(set(types)))
    starts = np.zeros(n + 1, np.int64)
    np.cumsum([len(each) for each in outgoing], out=starts[1:])
    count = np.arange(n, dtype=np.float64)
    return GraphArrays(
        handles=np.stack([np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64)], axis=1),
        types=names,
        type_of=np.array([names.index(each) for each in types], np.int16),
        names=Texts.of([""] * n),
        outgoing_starts=starts,
        outgoing=np.array([end for ends in outgoing for end in ends], np.int32),
        positive=np.maximum(count - 1, 0),
        count=count,
        pos=count.astype(np.int64),
        neg=np.zeros(n, np.int64),
        sources=np.ones(n, np.uint8),
        weight=np.where(np.array(types, object) == "co_occurs", count, np.nan).astype(np.float32)
        if n
        else np.zeros(0, np.float32),
        seen_us=np.zeros(n, np.int64),
        sti=np.zeros(n, np.float32),
        lti=np.zeros(n, np.float32),
        vlti=np.zeros(n, np.uint8),
        attended_us=np.zeros(n, np.int64),
    )


def test_links_of_arrays_conduct_by_truth_and_weight() -> None:
    types = ["video", "tag", "tag", "tag", "tagged", "tagged", "co_occurs", "related_to"]
    arrays = arrays_with(types, [[], [], [], [], [0, 1], [0, 2], [2, 1], [0, 1, 3]])
    links = conductance(arrays, Spreading(hebbian_share=0.5)).toarray()
    strength = 3 / 4, 4 / 5
    assert links[0, [1, 2]] == pytest.approx(np.array(strength) / sum(strength))
    assert links[1, [0, 2]] == pytest.approx([0.5, 0.5])
    assert not links[3].any(), "links of three ends conduct nothing"
    assert not links[4:].any()
    assert not links[:, 4:].any()


def test_the_least_important_are_forgotten_first() -> None:
    sti, lti = [0, 9, 0, 0, 50], [0.1, 0, 0.2, 0.0, 0]
    # Attention that was just raised counts by what LTI it becomes; the fourth would go first, but stays.
    order = least_important(sti, lti, [0, 0, 0, 0, -5], [0, 0, 0, 1, 0], 9)
    assert order.tolist() == [0, 1, 2, 4] or order.tolist() == [0, 2, 1, 4]
    foreseen = ECONOMY.after(sti, lti, 24.0)[1]
    assert (np.diff(foreseen[order]) >= 0).all()
    assert least_important(sti, lti, np.zeros(5), np.zeros(5), 2).tolist() == [3, 0]
    assert not len(least_important([], [], [], [], 5))
    assert not len(least_important(sti, lti, np.zeros(5), np.zeros(5), -3))
