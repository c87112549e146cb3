"""The graph as a matrix, and what its shape tells."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph.adjacency import Adjacency, Weighting, adjacency
from maia.graph.arrays import NO_ATOM
from maia.graph.structure import hops, pagerank, triangles
from tests.graph_arrays import NamedGraph, named_graph

A, B, C, D, E = (("tag", name) for name in "abcde")
V = ("video", "v")
EMPTY = named_graph([])
KITE = named_graph(
    [A, B, C, D, E], [("co_occurs", A, B), ("co_occurs", B, C), ("co_occurs", A, C), ("co_occurs", C, D)]
)
"""A triangle a, b, c with a tail c – d; e is alone."""


def dense(graph: NamedGraph, matrix: Adjacency, *nodes: tuple[str, str]) -> list[list[float]]:
    rows = matrix.rows(graph.places(nodes))
    return matrix.matrix.toarray()[np.ix_(rows, rows)].tolist()


def rows_of(graph: NamedGraph, matrix: Adjacency, *nodes: tuple[str, str]) -> list[int]:
    return matrix.rows(graph.places(nodes)).tolist()


def test_directed_and_symmetric_links_of_chosen_types_and_weights() -> None:
    made = named_graph(
        [A, B, V],
        [("tagged", V, A), ("tagged", V, B), ("co_occurs", A, B)],
        weights={0: 2.0, 1: -1.0},
        counts={0: (600, 800), 2: (200, 200)},
    )
    directed = adjacency(made.arrays, links=["tagged"], directed=True)
    assert dense(made, directed, V, A, B) == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    both = adjacency(made.arrays)
    assert dense(made, both, V, A, B) == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert both.matrix.dtype == np.float32
    # What has no weight, or none above 0, is left out.
    assert dense(made, adjacency(made.arrays, weighting=Weighting.WEIGHT), V, A, B) == [
        [0, 2, 0],
        [2, 0, 0],
        [0, 0, 0],
    ]
    # 600 of 800: strength .75 at confidence .5; 200 of 200: 1 at .2; nothing seen: confidence 0.
    truth = np.array(dense(made, adjacency(made.arrays, weighting=Weighting.TRUTH), V, A, B))
    assert truth == pytest.approx(np.array([[0, 0.375, 0], [0.375, 0, 0.2], [0, 0.2, 0]]))
    tags = adjacency(made.arrays, nodes=["tag"])
    assert tags.places.tolist() == sorted(made.places([A, B]))
    assert tags.matrix.nnz == 2
    assert tags.rows(made.places([V])).tolist() == [NO_ATOM]


def test_parallel_links_add_up() -> None:
    made = named_graph(
        [A, B], [("similar", A, B), ("co_occurs", A, B), ("similar", A, A)], weights={0: 1, 1: 3, 2: 5}
    )
    matrix = adjacency(made.arrays, weighting=Weighting.WEIGHT)
    assert dense(made, matrix, A, B) == [[5, 4], [4, 0]]
    a, b = rows_of(made, matrix, A, B)
    assert matrix.strengths()[[a, b]].tolist() == [9, 4]


def test_larger_and_nested_links_become_vertices() -> None:
    made = named_graph([A, B, C, V], [("group", A, B, C), ("evidence_for", V, 0), ("alone", V)])
    matrix = adjacency(made.arrays)
    star, single = matrix.rows(made.links[[0, 2]]).tolist()
    assert matrix.rows(made.links[[1]]).tolist() == [NO_ATOM]
    assert sorted(matrix.neighbours(star).tolist()) == sorted(rows_of(made, matrix, A, B, C, V))
    assert matrix.neighbours(single).tolist() == rows_of(made, matrix, V)
    # Of a larger link, only the ends that are asked for are joined.
    some = adjacency(made.arrays, nodes=["video"])
    assert sorted(some.neighbours(some.rows(made.links[[0]])[0])) == rows_of(made, some, V)


def test_types_must_be_of_links_and_of_nodes() -> None:
    with pytest.raises(ValueError, match="types of links have nodes: tag"):
        adjacency(KITE.arrays, links=["tag"])
    with pytest.raises(ValueError, match="types of nodes have links: co_occurs"):
        adjacency(KITE.arrays, nodes=["co_occurs"])


def test_the_shape_of_a_small_graph() -> None:
    matrix = adjacency(KITE.arrays)
    a, b, c, d, e = rows_of(KITE, matrix, A, B, C, D, E)
    each = [a, b, c, d, e]
    assert triangles(matrix)[each].tolist() == [1, 1, 1, 0, 0]
    assert hops(matrix, [d])[each].tolist() == [2, 2, 1, 0, NO_ATOM]
    assert hops(matrix, [d, e], 1)[each].tolist() == [NO_ATOM, NO_ATOM, 1, 0, 0]
    with pytest.raises(ValueError, match="rows must be between 0 and 4"):
        hops(matrix, [5])


def test_triangles_are_the_same_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [("tag", str(nth)) for nth in range(30)]
    made = named_graph(
        nodes, [("co_occurs", *pair) for nth, pair in enumerate(combinations(nodes, 2)) if nth % 3]
    )
    matrix = adjacency(made.arrays)
    whole = triangles(matrix)
    monkeypatch.setattr("maia.graph.structure._PRODUCT_ENTRIES", 40)
    assert triangles(matrix).tolist() == whole.tolist()
    # Each triangle is two closed walks of three steps, one in each direction.
    dense_matrix = matrix.matrix.toarray().astype(int)
    assert (np.diag(np.linalg.matrix_power(dense_matrix, 3)) // 2).tolist() == whole.tolist()


def test_pagerank_by_hand() -> None:
    # a → b and c with nothing: b = (1 − d)/3 + d·(a + lost/3), lost = b + c.
    made = named_graph([A, B, C], [("leads", A, B)])
    matrix = adjacency(made.arrays, directed=True)
    rank = pagerank(matrix, damping=0.5)
    a, b, c = rows_of(made, matrix, A, B, C)
    # a = c = x and b = x + a/2 = 1.5·x, which add up to 1.
    assert rank[[a, b, c]] == pytest.approx([2 / 7, 3 / 7, 2 / 7])
    ring = adjacency(
        named_graph([A, B, C], [("leads", A, B), ("leads", B, C), ("leads", C, A)]).arrays, directed=True
    )
    assert pagerank(ring) == pytest.approx([1 / 3] * 3)
    begin = np.zeros(3)
    begin[a] = 2
    # Everything begins at a again: a = x, b = x/2, c is never reached.
    assert pagerank(matrix, damping=0.5, restart=begin)[[a, b, c]] == pytest.approx([2 / 3, 1 / 3, 0])
    with pytest.raises(ValueError, match="restart"):
        pagerank(matrix, restart=-begin)
    with pytest.raises(ValueError, match="damping"):
        pagerank(matrix, damping=1)
    with pytest.raises(ValueError, match="did not converge in 1 steps"):
        pagerank(matrix, most_steps=1)


def test_nothing_and_one_node() -> None:
    nothing, one = adjacency(EMPTY.arrays), adjacency(named_graph([A]).arrays)
    assert len(nothing) == 0
    assert nothing.rows([3]).tolist() == [NO_ATOM]
    for function in (triangles, pagerank):
        assert len(function(nothing)) == 0
    assert (triangles(one).tolist(), pagerank(one).tolist()) == ([0], [1])
    assert hops(one, [0]).tolist() == [0]
    assert hops(nothing, []).tolist() == []


@settings(max_examples=25, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30), st.booleans())
def test_as_naive_code_does(pairs: set[tuple[int, int]], directed: bool) -> None:
    nodes = [("tag", str(nth)) for nth in range(9)]
    made = named_graph(nodes, [("leads", nodes[one], nodes[other]) for one, other in sorted(pairs)])
    matrix = adjacency(made.arrays, directed=directed)
    number = dict(zip(rows_of(made, matrix, *nodes), range(9), strict=True))
    follow = {(one, other) for one, other in pairs} | (set() if directed else {(b, a) for a, b in pairs})
    either = {frozenset(pair) for pair in pairs if pair[0] != pair[1]}
    closed = [
        trio
        for trio in combinations(range(9), 3)
        if all(frozenset(two) in either for two in combinations(trio, 2))
    ]
    assert triangles(matrix).tolist() == [sum(number[row] in trio for trio in closed) for row in range(9)]
    distance = {number[0]: 0}
    for step in range(1, 10):
        distance |= {
            b: step for a, b in sorted(follow) if a in distance and b not in distance and distance[a] < step
        }
    assert hops(matrix, [0], 9).tolist() == [distance.get(number[row], NO_ATOM) for row in range(9)]
    walk = matrix.matrix.toarray().astype(float)
    walk = np.where(
        walk.sum(1, keepdims=True) > 0, walk / np.maximum(walk.sum(1, keepdims=True), 1e-9), 1 / 9
    )
    exact = np.linalg.solve(np.eye(9) - 0.85 * walk.T, np.full(9, 0.15 / 9))
    assert pagerank(matrix) == pytest.approx(exact, abs=1e-8)
