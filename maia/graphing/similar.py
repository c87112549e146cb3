"""Which atoms are most like another one: by derived links, by their vectors, or else by what they share.

Vectors are compared with those in the cells around an atom's own. An atom that came since links were last
derived has none yet. A video is then folded in by its tags and its channel, a tag or topic by its words, and
a channel by its videos.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

import numpy as np

from atlas.adapters.graph import OWN, Atom
from atlas.adapters.graph_embeddings import BasisRow, GraphEmbeddingsDAO
from atlas.adapters.graph_views import GraphViewsDAO
from maia.graph.arrays import NO_ATOM, Float32s, pairs_of, places_of, uuid_of
from maia.graph.embedded_nodes import EMBEDDED, LEAST_COSINE
from maia.graph.embedding import NAMED, drawn, vector_of_bag, word_handles, words_in
from maia.graph.nearest import MOST_IN_CELL, nearest, probed, unit
from maia.graphing.vectors import basis_of, centres_of, halves

_SIMILAR: Final = "similar"
_MOST_SIMILAR: Final = 10_000
_MOST_LINKS: Final = 500
"""So many links of an atom are looked at to fold it in."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """Atoms with how much they are alike, the likest first, and how that was told.

    By `links`, it is the weight of a derived link `similar`, a cosine. An atom without such links has the
    cosines of its vector with those of others, by `vectors`. Without one, it is the closeness of Adamic and
    Adar: atoms are alike that share `neighbours` which few others have.
    """

    by: Literal["links", "vectors", "neighbours"]
    atoms: tuple[tuple[UUID, float], ...]


async def similar_atoms(dao: GraphViewsDAO, handle: UUID, limit: int = 10) -> Likeness:
    """The atoms most like one that is there, of the same type."""
    near = await dao.near(handle, [_SIMILAR], by_weight_alone=True, limit=limit, fan_out=_MOST_SIMILAR)
    if near:
        return Likeness("links", tuple((each.handle, each.weight or 0.0) for each in near))
    [atom] = await dao.get([handle])
    nearest = await nearest_atoms(dao, atom, limit) if dao.space == OWN else []
    if nearest:
        return Likeness("vectors", tuple(nearest))
    near = await dao.second_neighbours(handle, of_type=atom.type, limit=limit)
    return Likeness("neighbours", tuple((each.handle, each.closeness or 0.0) for each in near))


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
