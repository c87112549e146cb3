"""The atoms whose vectors are nearest to an atom's, among those in the cells around it.

An atom that came since links were last derived has no vector yet. A video is then folded in by its tags and
its channel, a tag or topic by its words, and a channel by its videos.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

import numpy as np

from atlas.adapters.graph import Atom
from atlas.adapters.graph_embeddings import BasisRow, GraphEmbeddingsDAO
from atlas.adapters.graph_views import GraphViewsDAO
from maia.graph.arrays import NO_ATOM, Float32s, places_of
from maia.graph.embedding import NAMED, drawn, vector_of_bag, word_handles, words_in
from maia.graph.likeness import EMBEDDED, LEAST_COSINE
from maia.graph.neighbours import MOST_IN_CELL, probed
from maia.graph.similarity import nearest, unit
from maia.graphing.embedding import basis_of, centres_of, halves, uuid_of
from maia.graphing.reading import pairs_of

_MOST_LINKS: Final = 500
"""So many links of an atom are looked at to fold it in."""


async def nearest_atoms(dao: GraphViewsDAO, atom: Atom, limit: int) -> list[tuple[UUID, float]]:
    """The atoms of an atom's type that are nearest, with their cosines, the nearest first.

    None are if nothing is known of the atom, or there are no vectors yet.
    """
    vectors = dao.embeddings()
    basis = await vectors.present()
    if basis is None or atom.type not in EMBEDDED:
        return []
    vector = await _vector(dao, vectors, basis, atom)
    if not vector.any():
        return []
    stored = await vectors.cells_of(basis.id, atom.type)
    cells = probed(vector, centres_of(stored))[0].tolist() if stored else [0]
    found = await vectors.in_cells(basis.id, atom.type, cells, MOST_IN_CELL)
    return await asyncio.to_thread(_ranked, *found, vector, atom.handle, limit)


async def _vector(dao: GraphViewsDAO, vectors: GraphEmbeddingsDAO, basis: BasisRow, atom: Atom) -> Float32s:
    """The vector of an atom, of shape (1, dimensions): the stored one, or one that is made now."""
    stored = await vectors.vectors_of(basis.id, [atom.handle])
    if stored:
        return _mean(basis, stored.values())
    if atom.type in NAMED:
        return await _of_bag(vectors, basis, [atom])
    linked = [each.handle for each in await dao.near(atom.handle, ["uploaded_by"], limit=_MOST_LINKS)]
    near = _mean(basis, (await vectors.vectors_of(basis.id, linked)).values())
    if atom.type == "channel":
        return near
    tags = [each.handle for each in await dao.near(atom.handle, ["tagged"], limit=_MOST_LINKS)]
    own = await _of_bag(vectors, basis, await dao.get(tags))
    return drawn(own, near, basis_of(basis, []).recipe)


async def _of_bag(vectors: GraphEmbeddingsDAO, basis: BasisRow, atoms: Sequence[Atom]) -> Float32s:
    """The vector of a bag of named atoms."""
    names = [each.name or "" for each in atoms]
    words = word_handles(sorted({word for name in names for word in words_in(name)}))
    wanted = [each.handle for each in atoms] + [uuid_of(each) for each in words]
    known = basis_of(basis, await vectors.features_of(basis.id, wanted))
    return vector_of_bag(known, pairs_of([each.handle for each in atoms]), names)


def _mean(basis: BasisRow, stored: Iterable[bytes]) -> Float32s:
    """The mean of vectors, of length 1; of none it is 0."""
    dimensions: int = basis.recipe["dimensions"]
    return unit(halves(list(stored), dimensions).astype(np.float32).sum(axis=0, keepdims=True))


def _ranked(
    handles: bytes, stored: bytes, vector: Float32s, but: UUID, limit: int
) -> list[tuple[UUID, float]]:
    places = np.frombuffer(handles, ">u8").astype(np.uint64).reshape(-1, 2)
    vectors = halves([stored], vector.shape[1])
    own = places_of(places, pairs_of([but]))
    near = nearest(vectors, vector, limit, but=own, least=LEAST_COSINE)
    return [
        (uuid_of(places[row]), cosine)
        for row, cosine in zip(near.rows[0].tolist(), near.cosines[0].tolist(), strict=True)
        if row != NO_ATOM
    ]
