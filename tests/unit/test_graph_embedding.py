"""Vectors of nodes, and which of them are alike."""

from __future__ import annotations

import numpy as np
import pytest

from maia.graph.embedding import Embeddings, Recipe, _orthonormal, build_embeddings, project
from maia.graph.nearest import similarity
from tests.graph_arrays import NamedGraph, named_graph

SMALL = Recipe(dimensions=64)
CATS, CARS = ("cats", "funny cats", "kittens"), ("cars", "fast cars", "racing")


def library(videos: int = 12, new: bool = False) -> NamedGraph:
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
    return named_graph(nodes, links)


def vector(made: NamedGraph, embeddings: Embeddings, type_: str, name: str) -> np.ndarray:
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
    made, before = library(new=True), library()

    def folded(name: str) -> np.ndarray:
        return project(made.arrays, learnt.basis, made.places([("video", name)]))

    # A tag that the basis doesn't know has a word that it does; a video without tags has its channel.
    for name in ("new", "bare"):
        assert similarity(folded(name), vector(before, learnt, "video", "v1"))[0, 0] > 0.5
        assert similarity(folded(name), vector(before, learnt, "video", "v0"))[0, 0] < 0.3
    assert not folded("silent").any()
    # Folding in what was learnt from gives the same vectors.
    again = project(made.arrays, learnt.basis, made.places(before.nodes))
    known = np.concatenate([vector(before, learnt, *node) for node in before.nodes])
    assert again == pytest.approx(known, abs=1e-6)


def test_the_basis_is_orthogonal_and_its_signs_are_fixed(learnt: Embeddings) -> None:
    used = learnt.basis.directions[:, learnt.basis.directions.any(axis=0)]
    products = used.T @ used
    assert products - np.diag(np.diag(products)) == pytest.approx(np.zeros_like(products), abs=1e-4)
    assert (used[np.abs(used).argmax(axis=0), np.arange(used.shape[1])] > 0).all()
    assert (np.diff(np.linalg.norm(used, axis=0)) <= 1e-5).all()


@pytest.mark.parametrize("nodes", [[], [("tag", "a")], [("video", "v")]])
def test_graphs_that_teach_nothing(nodes: list[tuple[str, str]]) -> None:
    embeddings = build_embeddings(named_graph(nodes).arrays, SMALL)
    assert embeddings.vectors.shape == (len(nodes), 64)
    assert not embeddings.vectors.any()


def test_refused(learnt: Embeddings) -> None:
    made = library()
    with pytest.raises(ValueError, match="only nodes have vectors"):
        project(made.arrays, learnt.basis, made.links[:1])
    for wrong in ({"dimensions": 32}, {"dimensions": 512}, {"pull": 1.5}, {"gathering": -1}, {"rarity": -1}):
        with pytest.raises(ValueError, match=r"between|negative"):
            Recipe(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dependent", [False, True])
def test_bases_of_power_steps_are_orthonormal_and_keep_the_span(dependent: bool) -> None:
    columns = np.random.default_rng(1).standard_normal((300, 12), np.float32) * np.geomspace(1, 1e3, 12)
    if dependent:
        columns[:, 3] = columns[:, 7] - columns[:, 5]
    columns = columns.astype(np.float32)
    basis = _orthonormal(columns)
    assert np.allclose(basis.T @ basis, np.eye(12), atol=1e-4)
    assert np.allclose(basis @ (basis.T @ columns), columns, rtol=1e-3, atol=1e-2)
