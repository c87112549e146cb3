"""Vectors for the nodes of the graph, such that what is alike has a small angle between its vectors.

A video is a bag of features: its tags, and the words of its tags, because three tags of four belong to a
single video. Features weigh the more the rarer they are, counted in channels, and the bags of a channel's
videos are one more bag. The leading right singular vectors of all bags are the basis. A video's vector is its
bag on this basis, drawn towards the mean of its channel's videos; nodes with a name to read (tags, topics,
concepts) are bags of one tag; all other nodes are the mean of the videos and names that they are linked to.

So a node that is new since the basis was learnt is folded in the same way as the others were, and a tag that
the basis doesn't know still has words that it does. The constants were chosen by measurement: see
tests/bench/bench_graph_similar.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from maia.graph.arrays import NO_ATOM, Float32s, Float64s, GraphArrays, Int64s, UInt64s, keys_of, places_of

DIMENSIONS: Final = 256
SMALLEST, LARGEST = 64, 256
NAMED: Final = ("tag", "topic", "concept")
"""Types of nodes whose names are words that people read."""

MOST_FEATURES: Final = 100_000
"""Of more tags and words, those that most channels have are the features: a kilobyte each."""

_NO_DIRECTIONS: Final = np.zeros((0, 0), np.float32)
_WORD = re.compile(r"\w+")
_OVERSAMPLED = 16
_POWER_STEPS = 4
_LEAST_PIVOT = 1e-4
_NODE_ROWS = 16_384
"""So many nodes, or rows of other matrices, are taken at once."""
_Real = TypeVar("_Real", np.float16, np.float32)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How embeddings are made; ValueError outside of these bounds.

    `rarity` is the power of a feature's inverse document frequency. `gathering` is the share of the channels'
    bags in what the basis is learnt from, where a channel of n videos counts n to the power 2 · `breadth`.
    `spectrum` is the power of the singular values in the vectors, and `pull` the share of the channel in the
    vector of a video.
    """

    dimensions: int = DIMENSIONS
    rarity: float = 1.2
    gathering: float = 0.8
    breadth: float = 0.25
    spectrum: float = 1.25
    pull: float = 0.7

    def __post_init__(self) -> None:
        if not SMALLEST <= self.dimensions <= LARGEST:
            raise ValueError(f"dimensions must be between {SMALLEST} and {LARGEST}")
        if not (0 <= self.gathering <= 1 and 0 <= self.pull <= 1):
            raise ValueError("gathering and pull are shares, between 0 and 1")
        if min(self.rarity, self.breadth, self.spectrum) < 0:
            raise ValueError("rarity, breadth and spectrum cannot be negative")


RECIPE: Final = Recipe()


@dataclass(frozen=True, slots=True)
class Basis:
    """What was learnt: the features and their directions.

    `tags` and `words` are handles in ascending order; these are the features, in this order. A word has the
    handle of a node of the type `word` with its name, so that a basis tells nobody's words. `rarity` weighs
    each feature, `unseen` all others, and `directions`, of shape (features, dimensions), projects.
    """

    recipe: Recipe
    tags: UInt64s
    words: UInt64s
    rarity: Float32s
    unseen: float
    directions: Float32s


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of nodes, in ascending order of their handles; of length 1, or 0 if nothing is known.

    Shapes (n, 2) and (n, dimensions). Their order is that of the nodes in the graph.
    """

    handles: UInt64s
    vectors: Float32s
    basis: Basis


def build_embeddings(graph: GraphArrays, recipe: Recipe = RECIPE, *, seed: int = 0) -> Embeddings:
    """Learn a basis from all videos, and embed all nodes in it. Equal arguments give equal vectors."""
    nodes = np.flatnonzero(np.diff(graph.outgoing_starts) == 0)
    basis = learn_basis(graph, recipe, seed=seed)
    return Embeddings(graph.handles[nodes], project(graph, basis, nodes), basis)


def project(graph: GraphArrays, basis: Basis, places: Int64s) -> Float32s:
    """The vectors of some nodes of a graph on a basis, shape (places, dimensions); ValueError for links."""
    return _projected(graph, basis, places, np.float32)


def project_halves(graph: GraphArrays, basis: Basis, places: Int64s) -> NDArray[np.float16]:
    """What `project` returns, in 16 bits and half the memory."""
    return _projected(graph, basis, places, np.float16)


def vector_of_bag(basis: Basis, handles: UInt64s, names: Sequence[str]) -> Float32s:
    """The vector of one bag of nodes, by their handles and names; of shape (1, dimensions)."""
    bag = sparse.csr_array(np.ones((1, len(names)), np.float32))
    return _unit(_features(bag, handles, names, basis) @ basis.directions)


def drawn(own: Float32s, channels: Float32s, recipe: Recipe) -> Float32s:
    """The vectors of videos, of length 1: those of their bags, drawn towards those of their channels."""
    pull = np.float32(recipe.pull)
    return _unit((1 - pull) * own + pull * channels)


def _projected(graph: GraphArrays, basis: Basis, places: Int64s, form: type[_Real]) -> NDArray[_Real]:
    if (np.diff(graph.outgoing_starts)[places] > 0).any():
        raise ValueError("only nodes have vectors, and there are links among the places")
    return _Projection(graph, basis).vectors(np.asarray(places, np.int64), form)


class _Projection:
    """A graph, and a basis to see it on."""

    def __init__(self, graph: GraphArrays, basis: Basis) -> None:
        self.graph, self.basis = graph, basis
        self.bags = _Bags(graph)
        self.uploads = _incidence(graph, "uploaded_by")
        self.any = _links_of_two(graph)

    def vectors(self, places: Int64s, form: type[_Real]) -> NDArray[_Real]:
        vectors = np.zeros((len(places), self.basis.recipe.dimensions), form)
        has_bag = self.bags.has_bag[places]
        rows = np.flatnonzero(has_bag)
        for begin in range(0, len(rows), _NODE_ROWS):
            some = rows[begin : begin + _NODE_ROWS]
            vectors[some] = self._own(places[some])
        vectors[~has_bag] = self._means(self.any, places[~has_bag])
        self._pull(places, vectors)
        return vectors

    def _own(self, places: Int64s) -> Float32s:
        """The projections of bags, of length 1 each."""
        return _unit(self.bags.features(places, self.basis) @ self.basis.directions)

    def _means(self, links: sparse.csr_array, places: Int64s) -> Float32s:
        """The means of the bags that places are linked to, of length 1 each."""
        of_places = links[places]
        near = np.unique(of_places.indices)
        near = near[self.bags.has_bag[near]].astype(np.int64)
        total = np.zeros((len(places), self.basis.recipe.dimensions), np.float32)
        by_column = of_places.tocsc()
        for begin in range(0, len(near), _NODE_ROWS):
            some = near[begin : begin + _NODE_ROWS]
            total += by_column[:, some] @ self._own(some)
        return _unit(total)

    def _pull(self, places: Int64s, vectors: NDArray[_Real]) -> None:
        """Draw videos towards their channels, in place."""
        of_videos = self.uploads[places].tocsr()
        videos = np.flatnonzero(np.diff(of_videos.indptr))
        if not len(videos):
            return
        channels, nth = np.unique(of_videos.indices[of_videos.indptr[videos]], return_inverse=True)
        means = self._means(self.uploads.T.tocsr(), channels.astype(np.int64))
        for begin in range(0, len(videos), _NODE_ROWS):
            some = videos[begin : begin + _NODE_ROWS]
            of_channels = means[nth[begin : begin + _NODE_ROWS]]
            vectors[some] = drawn(vectors[some].astype(np.float32), of_channels, self.basis.recipe)


class _Bags:
    """Videos and named nodes as bags of named nodes, and those as bags of words."""

    def __init__(self, graph: GraphArrays) -> None:
        self.graph = graph
        named = graph.of_type(*NAMED)
        own = sparse.csr_array(
            (np.ones(len(named), np.float32), (named, named)), shape=(len(graph), len(graph))
        )
        self.texts = (_incidence(graph, "tagged") + own).tocsr()
        self.has_bag = np.diff(self.texts.indptr) > 0

    def features(self, places: Int64s, basis: Basis) -> sparse.csr_array:
        """The bags of some places; see `_features`."""
        bags, texts = _narrowed(self.texts[places])
        names = [self.graph.names[place] for place in texts.tolist()]
        return _features(bags, self.graph.handles[texts], names, basis)


def _features(
    bags: sparse.csr_array, handles: UInt64s, names: Sequence[str], basis: Basis
) -> sparse.csr_array:
    """Bags of nodes, by handles and names, as bags of features: each half of length 1, and both together.

    Shapes (bags, nodes) and (bags, features). The lengths count what the basis doesn't know, too: of a video
    whose tags are mostly unknown, the few others don't tell as much.
    """
    each = np.arange(len(names))
    own = sparse.csr_array((np.ones(len(names), np.float32), (each, each)), shape=(len(names),) * 2)
    of_words, words = _words_of(names)
    first, second = basis.rarity[: len(basis.tags)], basis.rarity[len(basis.tags) :]
    halves = [
        _scaled(_present(bags @ _as_features(matrix, given, known)), rarity, basis.unseen)[:, : len(rarity)]
        for matrix, given, known, rarity in (
            (own, handles, basis.tags, first),
            (of_words, word_handles(words), basis.words, second),
        )
    ]
    return _unit_rows(sparse.hstack(halves, format="csr"))


def words_in(name: str) -> set[str]:
    """The words of a name."""
    return set(_WORD.findall(name.casefold()))


def _words_of(names: Sequence[str]) -> tuple[sparse.csr_array, Collection[str]]:
    """Which words the names have, of shape (names, words), and these words."""
    rows, columns, numbers = [], [], dict[str, int]()
    for row, name in enumerate(names):
        for word in words_in(name):
            rows.append(row)
            columns.append(numbers.setdefault(word, len(numbers)))
    ones = np.ones(len(rows), np.float32)
    shape = len(names), len(numbers)
    return sparse.csr_array((ones, (rows, columns)), shape=shape, dtype=np.float32), numbers


def word_handles(words: Collection[str]) -> UInt64s:
    """The handles that nodes of the type `word` with these names would have, in their order."""
    digests = [sha256(b"nword\0" + word.encode()).digest()[:16] for word in words]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)


def _as_features(matrix: sparse.csr_array, handles: UInt64s, known: UInt64s) -> sparse.csr_array:
    """The columns, which have these handles, where the basis has them, and behind its own those it hasn't."""
    columns = places_of(known, handles)
    unknown = np.flatnonzero(columns == NO_ATOM)
    columns[unknown] = len(known) + np.arange(len(unknown))
    shape = matrix.shape[0], len(known) + len(unknown)
    return sparse.csr_array((matrix.data, columns[matrix.indices], matrix.indptr), shape=shape)


def learn_basis(graph: GraphArrays, recipe: Recipe = RECIPE, *, seed: int = 0) -> Basis:
    """Learn a basis from all videos of a graph, of at most `MOST_FEATURES`."""
    bags = _Bags(graph)
    tagged = _incidence(graph, "tagged").tocsr()
    videos = np.flatnonzero(np.diff(tagged.indptr))
    tags = np.unique(tagged.indices).astype(np.int64)
    words = word_handles({word for place in tags.tolist() for word in words_in(graph.names[place])})
    words = words[np.argsort(keys_of(words))]
    size = len(tags) + len(words)
    unweighted = Basis(recipe, graph.handles[tags], words, np.ones(size, np.float32), 1.0, _NO_DIRECTIONS)
    groups = _groups(graph, videos)
    frequency = np.bincount((groups @ bags.features(videos, unweighted)).indices, minlength=size)
    kept = np.sort(np.argsort(-frequency, kind="stable")[:MOST_FEATURES])
    frequency, of_tags = frequency[kept], kept < len(tags)
    unweighted = replace(
        unweighted, tags=unweighted.tags[kept[of_tags]], words=words[kept[~of_tags] - len(tags)]
    )
    # The smoothed inverse document frequency, where the documents are channels.
    rarity = (np.log((1 + groups.shape[0]) / (1 + frequency)) + 1) ** recipe.rarity
    unseen = (np.log1p(groups.shape[0]) + 1) ** recipe.rarity
    weighed = replace(unweighted, rarity=rarity.astype(np.float32), unseen=float(unseen))
    documents = _documents(bags.features(videos, weighed), groups, recipe)
    return replace(weighed, directions=_directions(documents, recipe, seed))


def _groups(graph: GraphArrays, videos: Int64s) -> sparse.csr_array:
    """The videos of each channel, of shape (channels, videos); a video without one is one."""
    uploads = _incidence(graph, "uploaded_by").tocsr()
    channel = videos.copy()
    counts = np.diff(uploads.indptr)[videos]
    channel[counts > 0] = uploads.indices[uploads.indptr[videos[counts > 0]]]
    _, nth = np.unique(channel, return_inverse=True)
    ones = np.ones(len(videos), np.float32)
    size = int(nth.max()) + 1 if len(nth) else 0
    return sparse.csr_array((ones, (nth, np.arange(len(videos)))), shape=(size, len(videos)))


def _documents(features: sparse.csr_array, groups: sparse.csr_array, recipe: Recipe) -> sparse.csr_array:
    """The bags of videos above those of channels, each by its share in what is learnt."""
    counts = np.diff(groups.indptr).astype(np.float32)
    gathered_bags = _unit_rows(groups @ features)
    weights = np.sqrt(recipe.gathering) * counts**recipe.breadth
    of_channels = sparse.diags_array(weights.astype(np.float32)) @ gathered_bags
    of_videos = features * np.float32(np.sqrt(1 - recipe.gathering))
    return sparse.vstack([of_videos, of_channels], format="csr", dtype=np.float32)


def _directions(documents: sparse.csr_array, recipe: Recipe, seed: int) -> Float32s:
    """The leading right singular vectors times a power of their singular values; zeros beyond the rank.

    Randomised subspace iteration (Halko, Martinsson and Tropp, 2011). Each vector's sign is such that its
    largest component is positive.
    """
    directions = np.zeros((documents.shape[1], recipe.dimensions), np.float32)
    width = min(recipe.dimensions + _OVERSAMPLED, *documents.shape)
    if not width:
        return directions
    right, values = _subspace(documents, width, seed)
    kept = min(recipe.dimensions, int((values > values[0] * 1e-4).sum()))
    right, values = right[:, :kept], values[:kept]
    signs = np.sign(right[np.abs(right).argmax(axis=0), np.arange(kept)])
    scale = signs * (values / values[0]) ** (recipe.spectrum - 1)
    directions[:, :kept] = right * scale.astype(np.float32)
    return directions


def _subspace(documents: sparse.csr_array, width: int, seed: int) -> tuple[Float32s, Float64s]:
    """Right singular vectors and singular values, the largest first."""
    start = np.random.default_rng(seed).standard_normal((documents.shape[1], width), np.float32)
    transposed = documents.T.tocsr()
    sample = documents @ start
    for _ in range(_POWER_STEPS):
        sample = documents @ (transposed @ _orthonormal(sample))
    image = transposed @ _orthonormal(sample)
    squares, mixed = linalg.eigh((image.T @ image).astype(np.float64))
    values = np.sqrt(np.maximum(squares[::-1], 0))
    scale = np.divide(1.0, values, out=np.zeros(width), where=values > values[0] * 1e-4)
    return image @ (mixed[:, ::-1] * scale).astype(np.float32), values


def _orthonormal(columns: Float32s) -> Float32s:
    """Columns with the same span that are nearly orthonormal, which is enough for the next power step.

    By Cholesky's factor of their products: two large products of matrices instead of Householder's many small
    steps, after each of which the threads of BLAS wait for each other, and on a busy machine for long.
    """
    products = np.zeros((columns.shape[1],) * 2)
    for begin in range(0, len(columns), _NODE_ROWS):
        rows = columns[begin : begin + _NODE_ROWS].astype(np.float64)
        products += rows.T @ rows
    try:
        factor = linalg.cholesky(products, check_finite=False)
    except linalg.LinAlgError:
        return _orthonormal_by_reflections(columns)
    pivots = factor.diagonal()
    if pivots.min() < _LEAST_PIVOT * pivots.max():
        return _orthonormal_by_reflections(columns)
    inverse = linalg.solve_triangular(factor, np.eye(len(factor)), check_finite=False)
    return np.asarray(columns @ inverse.astype(np.float32))


def _orthonormal_by_reflections(columns: Float32s) -> Float32s:
    """The same for columns that depend on each other, as those of a small graph may."""
    basis: Float32s = linalg.qr(columns, mode="economic", check_finite=False)[0]
    return basis


def _incidence(graph: GraphArrays, link_type: str) -> sparse.csr_array:
    """The links of two of one type, from the first to the second end, over all places."""
    links = graph.of_type(link_type)
    links = links[np.diff(graph.outgoing_starts)[links] == 2]
    first = graph.outgoing_starts[links]
    return _pattern(graph, graph.outgoing[first], graph.outgoing[first + 1])


def _links_of_two(graph: GraphArrays) -> sparse.csr_array:
    """All links of two, in both directions, over all places."""
    first = graph.outgoing_starts[np.flatnonzero(np.diff(graph.outgoing_starts) == 2)]
    one, other = graph.outgoing[first], graph.outgoing[first + 1]
    return _pattern(graph, np.concatenate([one, other]), np.concatenate([other, one]))


def _pattern(graph: GraphArrays, rows: Int64s, columns: Int64s) -> sparse.csr_array:
    ones = np.ones(len(rows), np.float32)
    return _present(sparse.csr_array((ones, (rows, columns)), shape=(len(graph), len(graph))))


def _narrowed(matrix: sparse.csr_array) -> tuple[sparse.csr_array, Int64s]:
    """The matrix without its empty columns, and which ones are left."""
    columns, nth = np.unique(matrix.indices, return_inverse=True)
    narrow = sparse.csr_array((matrix.data, nth, matrix.indptr), shape=(matrix.shape[0], len(columns)))
    return narrow, columns.astype(np.int64)


def _present(matrix: sparse.csr_array) -> sparse.csr_array:
    matrix.data[:] = 1
    return matrix


def _scaled(matrix: sparse.csr_array, columns: Float32s, others: float) -> sparse.csr_array:
    """The columns by their factors, and those that have none by that of the others; then rows of length 1."""
    factors = np.full(matrix.shape[1], others, np.float32)
    factors[: len(columns)] = columns
    matrix.data *= factors[matrix.indices]
    return _unit_rows(matrix)


def _unit_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """The rows divided by their lengths, in place; empty rows stay so."""
    squares = np.asarray((matrix * matrix).sum(axis=1)).reshape(-1)
    scale = np.divide(1, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)
    matrix.data *= np.repeat(scale, np.diff(matrix.indptr)).astype(np.float32)
    return matrix


def _unit(vectors: Float32s) -> Float32s:
    """The rows divided by their lengths; rows that are nothing but rounding errors become 0."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-12))
