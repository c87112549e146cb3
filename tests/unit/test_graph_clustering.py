"""Communities: found, judged, compared and named."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph.adjacency import Adjacency, Weighting, adjacency
from maia.graph.clustering import (
    adjusted_rand,
    cluster,
    modularity,
    mutual_information,
    stability,
    telling,
)
from tests.graph_arrays import NamedGraph, named_graph

GROUPINGS = st.integers(1, 12).flatmap(
    lambda size: st.tuples(*[st.lists(st.integers(0, 3), min_size=size, max_size=size)] * 2)
)


def cliques(count: int, size: int) -> tuple[NamedGraph, Adjacency, list[list[int]]]:
    """Cliques in a ring, each joined to the next by one link; and the rows of each."""
    nodes = [[("tag", f"{nth}-{each}") for each in range(size)] for nth in range(count)]
    links = [("co_occurs", *pair) for group in nodes for pair in combinations(group, 2)]
    links += [
        ("co_occurs", group[0], other[1]) for group, other in zip(nodes, nodes[1:] + nodes[:1], strict=True)
    ]
    made = named_graph([node for group in nodes for node in group], links)
    matrix = adjacency(made.arrays)
    return made, matrix, [matrix.rows(made.places(group)).tolist() for group in nodes]


def test_two_triangles() -> None:
    nodes = [("tag", name) for name in "abcdef"]
    links = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]
    made = named_graph(nodes, [("co_occurs", nodes[one], nodes[other]) for one, other in links])
    matrix = adjacency(made.arrays)
    rows = matrix.rows(made.places(nodes))
    found = cluster(matrix)
    assert len(found) == 2
    assert len(set(found.labels[rows[:3]])) == len(set(found.labels[rows[3:]])) == 1
    # 6 of 7 links inside, half of the ends in each: 6/7 − 2·(1/2)².
    assert found.modularity == pytest.approx(6 / 7 - 0.5)
    assert modularity(matrix, np.zeros(6, np.int32)) == pytest.approx(0)
    # All alone: nothing inside, and the degrees are 2, 2, 3, 3, 2, 2 of 14.
    assert modularity(matrix, np.arange(6, dtype=np.int32)) == pytest.approx(-34 / 14**2)
    with pytest.raises(ValueError, match="6 labels"):
        modularity(matrix, np.zeros(5, np.int32))
    with pytest.raises(ValueError, match="resolution"):
        cluster(matrix, resolution=0)


def test_cliques_in_a_ring_are_found_by_every_seed() -> None:
    _, matrix, groups = cliques(12, 6)
    for seed in range(5):
        found = cluster(matrix, seed=seed)
        assert sorted(sorted(np.flatnonzero(found.labels == n).tolist()) for n in range(12)) == sorted(
            map(sorted, groups)
        )
    known = stability(matrix, range(5))
    assert known.adjusted_rand == known.mutual_information == 1
    # 12 · 15 links inside and 12 between, each community with a twelfth of the ends.
    assert known.modularities == pytest.approx([180 / 192 - 1 / 12] * 5)
    assert len(cluster(matrix, resolution=0.01)) == 1
    with pytest.raises(ValueError, match="two seeds"):
        stability(matrix, [1])


def test_equal_seeds_give_equal_communities_and_direction_makes_no_difference() -> None:
    rng = np.random.default_rng(1)
    nodes = [("tag", str(nth)) for nth in range(60)]
    pairs = {tuple(sorted(pair)) for pair in rng.integers(0, 60, (150, 2)).tolist() if pair[0] != pair[1]}
    made = named_graph(nodes, [("leads", nodes[one], nodes[other]) for one, other in sorted(pairs)])
    matrix = adjacency(made.arrays)
    found, again = cluster(matrix, seed=3), cluster(matrix, seed=3)
    assert found.labels.tolist() == again.labels.tolist()
    directed = adjacency(made.arrays, directed=True)
    assert modularity(directed, found.labels) == pytest.approx(found.modularity)
    assert cluster(directed, seed=3).modularity == pytest.approx(found.modularity, abs=0.05)
    sizes = np.bincount(found.labels)
    assert (np.diff(sizes) <= 0).all()


def test_nothing_one_node_and_no_links() -> None:
    nothing, one = adjacency(named_graph([]).arrays), adjacency(named_graph([("tag", "a")]).arrays)
    assert (len(cluster(nothing)), cluster(nothing).modularity) == (0, 0)
    assert (cluster(one).labels.tolist(), cluster(one).modularity) == ([0], 0)
    alone = adjacency(named_graph([("tag", "a"), ("tag", "b")]).arrays)
    assert cluster(alone).labels.tolist() == [0, 1]
    assert telling(alone, cluster(alone), np.array([0, 1])) != []
    itself = adjacency(
        named_graph([("tag", "a"), ("tag", "b")], [("co_occurs", ("tag", "a"), ("tag", "a"))]).arrays
    )
    assert len(cluster(itself)) == 2


def test_tags_that_tell_of_a_community() -> None:
    videos = [("video", str(nth)) for nth in range(6)]
    tags = [("tag", name) for name in ("cats", "kittens", "cars", "video")]
    carried = {0: (0, 1, 3), 1: (0, 3), 2: (0, 1), 3: (2, 3), 4: (2, 3), 5: (2,)}
    made = named_graph(
        [*videos, *tags],
        [("tagged", videos[video], tags[tag]) for video, all_ in carried.items() for tag in all_],
    )
    matrix = adjacency(made.arrays, weighting=Weighting.ONE)
    row = dict(zip([*videos, *tags], matrix.rows(made.places([*videos, *tags])).tolist(), strict=True))
    labels = np.zeros(len(matrix), np.int32)
    labels[[row[videos[nth]] for nth in (3, 4, 5)]] = 1
    labels[row[tags[2]]] = 1
    grouped = type(cluster(matrix))(labels, modularity(matrix, labels))
    cats, cars = telling(matrix, grouped, np.array([row[tag] for tag in tags]), most=2)
    assert cats.tolist() == [row[tags[0]], row[tags[1]]]
    # The common tag is in both as by chance or nearly so, and comes last if at all.
    assert cars.tolist()[0] == row[tags[2]]


def test_agreement_by_hand() -> None:
    one, other = np.array([0, 0, 1, 1], np.int32), np.array([0, 0, 1, 2], np.int32)
    # Joint pairs 1, ours 2, theirs 1, of 6: (1 − 2/6) / (1.5 − 2/6).
    assert adjusted_rand(one, other) == pytest.approx((1 - 1 / 3) / (1.5 - 1 / 3))
    # ln 2 shared; entropies ln 2 and 1.5·ln 2.
    assert mutual_information(one, other) == pytest.approx(0.8)
    assert adjusted_rand(one, 1 - one) == mutual_information(one, 1 - one) == 1
    with pytest.raises(ValueError, match="same things"):
        adjusted_rand(one, other[:3])


@settings(max_examples=25, deadline=None)
@given(GROUPINGS)
def test_agreement_is_symmetric_bounded_and_counts_pairs(two: tuple[list[int], list[int]]) -> None:
    one, other = (np.array(each, np.int32) for each in two)
    pairs = list(combinations(range(len(one)), 2))
    same = [(one[a] == one[b], other[a] == other[b]) for a, b in pairs]
    joint, ours, theirs = (
        sum(map(bool, each))
        for each in ((x and y for x, y in same), (x for x, _ in same), (y for _, y in same))
    )
    expected = ours * theirs / len(pairs) if pairs else 0
    most = (ours + theirs) / 2
    assert adjusted_rand(one, other) == pytest.approx(
        (joint - expected) / (most - expected) if most != expected else 1
    )
    for measure in (adjusted_rand, mutual_information):
        assert measure(one, other) == pytest.approx(measure(other, one))
        assert measure(one, one) == pytest.approx(1)
    assert 0 <= mutual_information(one, other) <= 1


@settings(max_examples=20, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30), st.integers(0, 3))
def test_no_community_falls_apart_or_is_worse_than_none(pairs: set[tuple[int, int]], seed: int) -> None:
    nodes = [("tag", str(nth)) for nth in range(10)]
    made = named_graph(nodes, [("leads", nodes[one], nodes[other]) for one, other in sorted(pairs)])
    matrix = adjacency(made.arrays)
    found = cluster(matrix, seed=seed)
    assert found.modularity >= modularity(matrix, np.arange(10, dtype=np.int32)) - 1e-9
    linked = matrix.matrix.toarray() > 0
    for number in range(len(found)):
        members = np.flatnonzero(found.labels == number)
        reached = np.linalg.matrix_power(linked[np.ix_(members, members)] + np.eye(len(members)), 10)
        assert (reached > 0).all()
