"""Vectors of nodes, and which of them are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph.embedding import Embeddings, Recipe, build_embeddings, extended, project
from maia.graph.similarity import all_nearest, nearest, similarity
from tests.graph_made import MadeGraph, made_graph

SMALL = Recipe(dimensions=64)
CATS, CARS = ("cats", "funny cats", "kittens"), ("cars", "fast cars", "racing")


def library(videos: int = 12, new: bool = False) -> MadeGraph:
    """Videos of cats and of cars by turns, two of their three tags each, of two channels of each kind."""
    nodes, links = [], []
    for nth in range(videos):
        tags = (CATS, CARS)[nth % 2]
        video, channel = ("video", f"v{nth}"), ("channel", f"c{nth % 4}")
        carried = [("tag", tag) for tag in (tags[nth // 2 % 3], tags[(nth // 2 + 1) % 3])]
        nodes += [video, channel, *carried]
        links += [("uploaded_by", video, channel), *(("tagged", video, tag) for tag in carried)]
    nodes += [("topic", "cats"), ("topic", "racing cars"), ("category", "10"), ("agent", "hunter")]
    links += [("inherits", ("video", f"v{nth}"), ("category", "10")) for nth in range(0, videos, 2)]
    if new:
        nodes += [("tag", "old cars"), ("video", "new"), ("video", "bare"), ("video", "silent")]
        links += [("tagged", ("video", "new"), ("tag", "old cars"))]
        links += [("uploaded_by", ("video", "bare"), ("channel", "c1"))]
    return made_graph(nodes, links)


def vector(made: MadeGraph, embeddings: Embeddings, type_: str, name: str) -> np.ndarray:
    row = np.flatnonzero((embeddings.handles == made.arrays.handles[made.nodes[type_, name]]).all(axis=1))
    return embeddings.vectors[row]


@pytest.fixture(scope="module")
def learnt() -> Embeddings:
    return build_embeddings(library().arrays, SMALL, seed=4)


def test_what_is_alike_is_near(learnt: Embeddings) -> None:
    made = library()

    def alike(one: tuple[str, str], other: tuple[str, str]) -> float:
        return float(similarity(vector(made, learnt, *one), vector(made, learnt, *other))[0, 0])

    assert alike(("video", "v0"), ("video", "v2")) > 0.7 > 0.1 > alike(("video", "v0"), ("video", "v1"))
    for type_, cats, cars in (
        ("tag", "kittens", "racing"), ("channel", "c0", "c1"), ("topic", "cats", "racing cars")
    ):  # fmt: skip
        assert alike((type_, cats), ("video", "v0")) > alike((type_, cats), ("video", "v1")) + 0.3
        assert alike((type_, cars), ("video", "v1")) > alike((type_, cars), ("video", "v0")) + 0.3
    assert alike(("category", "10"), ("video", "v4")) > 0.7
    lengths = np.linalg.norm(learnt.vectors, axis=1)
    assert vector(made, learnt, "agent", "hunter").any() == np.False_
    assert sorted({round(float(length), 5) for length in lengths}) == [0, 1]


def test_equal_seeds_give_equal_vectors_and_other_seeds_the_same_angles(learnt: Embeddings) -> None:
    again = build_embeddings(library().arrays, SMALL, seed=4)
    assert np.array_equal(again.vectors, learnt.vectors)
    other = build_embeddings(library().arrays, SMALL, seed=5)
    assert similarity(other.vectors, other.vectors) == pytest.approx(
        similarity(learnt.vectors, learnt.vectors), abs=1e-3
    )


def test_new_nodes_are_folded_in_and_others_stay(learnt: Embeddings) -> None:
    made = library(new=True)
    later = extended(made.arrays, learnt)
    # A tag that the basis doesn't know has a word that it does; a video without tags has its channel.
    for name in ("new", "bare"):
        assert similarity(vector(made, later, "video", name), vector(made, later, "video", "v1"))[0, 0] > 0.5
        assert similarity(vector(made, later, "video", name), vector(made, later, "video", "v0"))[0, 0] < 0.3
    assert not vector(made, later, "video", "silent").any()
    before = library()
    for place in before.nodes.items():
        assert np.array_equal(vector(made, later, *place[0]), vector(before, learnt, *place[0]))
    # Folding in what was learnt from gives the same vectors; nodes that are gone have none.
    whole = project(before.arrays, learnt.basis, before.places([("video", "v3"), ("tag", "cars")]))
    assert whole == pytest.approx(
        np.concatenate([vector(before, learnt, "video", "v3"), vector(before, learnt, "tag", "cars")]),
        abs=1e-6,
    )
    assert len(extended(library(4).arrays, learnt).handles) < len(learnt.handles)
    changed = extended(made.arrays, learnt, [made.nodes["channel", "c1"]])
    assert not np.array_equal(vector(made, changed, "channel", "c1"), np.zeros((1, 64)))


def test_the_basis_is_orthogonal_and_its_signs_are_fixed(learnt: Embeddings) -> None:
    used = learnt.basis.directions[:, learnt.basis.directions.any(axis=0)]
    products = used.T @ used
    assert products - np.diag(np.diag(products)) == pytest.approx(np.zeros_like(products), abs=1e-4)
    assert (used[np.abs(used).argmax(axis=0), np.arange(used.shape[1])] > 0).all()
    assert (np.diff(np.linalg.norm(used, axis=0)) <= 1e-5).all()


@pytest.mark.parametrize("nodes", [[], [("tag", "a")], [("video", "v")]])
def test_graphs_that_teach_nothing(nodes: list[tuple[str, str]]) -> None:
    embeddings = build_embeddings(made_graph(nodes).arrays, SMALL)
    assert embeddings.vectors.shape == (len(nodes), 64)
    assert not embeddings.vectors.any()


def test_refused(learnt: Embeddings) -> None:
    made = library()
    with pytest.raises(ValueError, match="only nodes have vectors"):
        project(made.arrays, learnt.basis, made.links[:1])
    for wrong in ({"dimensions": 32}, {"dimensions": 512}, {"pull": 1.5}, {"gathering": -1}, {"rarity": -1}):
        with pytest.raises(ValueError, match=r"between|negative"):
            Recipe(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be compared"):
        similarity(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="k must be"):
        all_nearest(np.zeros((1, 3), np.float32), 0)


def test_cosines_by_hand() -> None:
    vectors = np.array([[3, 4], [4, 3], [-3, -4], [0, 0], [6, 8]], np.float32)
    assert similarity(vectors[:1], vectors) == pytest.approx(np.array([[1, 0.96, -1, 0, 1]]))
    found = all_nearest(vectors, 3)
    assert found.rows.tolist() == [[4, 1, -1], [0, 4, -1], [-1, -1, -1], [-1, -1, -1], [0, 1, -1]]
    assert found.cosines[0] == pytest.approx([1, 0.96, 0])
    assert nearest(vectors, vectors[:1], 3, least=-1.0).rows.tolist() == [[0, 4, 1]]
    assert nearest(vectors[:0], vectors, 2).rows.tolist() == [[-1, -1]] * 5


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(16, 600),
    st.integers(0, 1000),
    st.sampled_from([np.float32, np.float16]),
)
def test_blocks_give_what_sorting_all_gives(
    size: int, k: int, block_bytes: int, seed: int, kind: type
) -> None:
    # Few directions, so that there are many ties.
    vectors = np.random.default_rng(seed).integers(-1, 2, (size, 3)).astype(kind)
    found = all_nearest(vectors, k, least=1e-5, block_bytes=block_bytes)
    cosines = np.round(similarity(vectors, vectors), 5)
    for row in range(size):
        others = sorted((-cosines[row, other], other) for other in range(size) if other != row)
        expected = [other for cosine, other in others if cosine < -1e-5][:k]
        assert np.round(found.cosines[row, : len(expected)], 5).tolist() == [
            cosines[row, n] for n in expected
        ]
        assert set(found.rows[row, len(expected) :].tolist()) <= {-1}
        assert len(set(found.rows[row].tolist()) - {-1}) == len(expected)
