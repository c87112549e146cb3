"""Keeping the vectors of atoms: a basis that is learnt now and then, and all vectors on it at any time.

A basis is learnt anew after `graph.learn_embeddings_days`, or when there are half as many videos more than it
was learnt from. Until then, atoms that are new or changed get their vectors on the basis that there is. A new
basis is written beside the present one with all its vectors, and then takes its place in one transaction, so
that what is read is always on one basis. Only one process does that at a time, the deriver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph_embeddings import ROWS_AT_ONCE, BasisRow, FeatureRow, GraphEmbeddingsDAO, VectorRow
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from maia.graph.arrays import NO_ATOM, Float32s, GraphArrays, Int64s, pairs_of, places_of, uuid_of
from maia.graph.embedded_nodes import EmbeddedNodes, embed_nodes, learn_embedding
from maia.graph.embedding import Basis, Recipe

_GROWTH: Final = 1.5
_ALIKE: Final = 0.999
"""A vector whose cosine to the stored one is at least this is not written again."""
_HALF: Final = np.dtype("<f2")
_SINGLE: Final = np.dtype("<f4")


async def embed(atlas: Atlas, facts: GraphArrays) -> EmbeddedNodes:
    """The vectors of all nodes of the facts that have one, which are stored, too."""
    dao = GraphEmbeddingsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    present = await dao.present()
    days = timedelta(days=atlas.settings.graph.learn_embeddings_days)
    videos = len(facts.of_type("video"))
    if present is None or atlas.clock.now() - present.learnt_at >= days or videos > present.videos * _GROWTH:
        return await _learn(dao, facts, videos)
    basis, centres = await read_basis(dao, present), await read_centres(dao, present.id)
    nodes = await asyncio.to_thread(embed_nodes, facts, basis, centres)
    await _follow(dao, present.id, facts, nodes)
    return nodes


async def _learn(dao: GraphEmbeddingsDAO, facts: GraphArrays, videos: int) -> EmbeddedNodes:
    nodes = await asyncio.to_thread(learn_embedding, facts)
    basis = nodes.basis
    number = await dao.begin(videos, asdict(basis.recipe), basis.unseen)
    for features in _feature_rows(basis):
        await dao.add_features(number, features)
    for type_, centres in nodes.centres.items():
        await dao.add_cells(number, type_, [each.tobytes() for each in centres.astype(_SINGLE)])
    await _put(dao, number, facts, nodes, np.arange(len(nodes.places)))
    await dao.enter(number)
    return nodes


async def _follow(dao: GraphEmbeddingsDAO, basis: int, facts: GraphArrays, nodes: EmbeddedNodes) -> None:
    """Bring what is stored into line: write what is new or differs, delete what is no more."""
    due = np.ones(len(nodes.places), bool)
    former: list[UUID] = []
    async for page in dao.vectors(basis):
        known, same = await asyncio.to_thread(_compared, facts, nodes, page)
        due[known[same]] = False
        former += [page[nth][0] for nth in np.flatnonzero(known == NO_ATOM).tolist()]
    await _put(dao, basis, facts, nodes, np.flatnonzero(due))
    for begin in range(0, len(former), ROWS_AT_ONCE):
        await dao.drop(basis, former[begin : begin + ROWS_AT_ONCE])


def _compared(
    facts: GraphArrays, nodes: EmbeddedNodes, page: Sequence[tuple[UUID, bytes]]
) -> tuple[Int64s, NDArray[np.bool_]]:
    """Which of the nodes those on a page are, NO_ATOM for none, and whether they have the same vectors."""
    stored = halves([vector for _, vector in page], nodes.basis.recipe.dimensions)
    known = places_of(facts.handles[nodes.places], pairs_of([handle for handle, _ in page]))
    there = np.flatnonzero(known != NO_ATOM)
    ours = nodes.vectors[known[there]].astype(np.float32)
    same = np.zeros(len(page), bool)
    same[there] = np.einsum("ij,ij->i", stored[there].astype(np.float32), ours) >= _ALIKE
    return known, same


async def _put(
    dao: GraphEmbeddingsDAO, basis: int, facts: GraphArrays, nodes: EmbeddedNodes, which: Int64s
) -> None:
    # By cells, so that what is read together is stored together.
    order = which[np.lexsort((nodes.cells[which], facts.type_of[nodes.places[which]]))]
    for begin in range(0, len(order), ROWS_AT_ONCE):
        rows = [_vector_row(facts, nodes, nth) for nth in order[begin : begin + ROWS_AT_ONCE].tolist()]
        async for attempt in retry_conflicts():
            with attempt:
                await dao.put(basis, rows)


def _vector_row(facts: GraphArrays, nodes: EmbeddedNodes, nth: int) -> VectorRow:
    place = int(nodes.places[nth])
    vector = nodes.vectors[nth].astype(_HALF).tobytes()
    return VectorRow(facts.handle(place), facts.types[facts.type_of[place]], int(nodes.cells[nth]), vector)


def _feature_rows(basis: Basis) -> Iterator[list[FeatureRow]]:
    handles = np.concatenate([basis.tags, basis.words])
    for begin in range(0, len(handles), ROWS_AT_ONCE):
        yield [
            FeatureRow(
                uuid_of(handles[nth]), nth >= len(basis.tags), float(basis.rarity[nth]),
                basis.directions[nth].astype(_HALF).tobytes(),
            )
            for nth in range(begin, min(begin + ROWS_AT_ONCE, len(handles)))
        ]  # fmt: skip


async def read_basis(dao: GraphEmbeddingsDAO, row: BasisRow) -> Basis:
    """The whole of a basis."""
    pages = [await asyncio.to_thread(basis_of, row, page) async for page in dao.features(row.id)]
    return await asyncio.to_thread(_joined, pages or [basis_of(row, [])])


def _joined(pages: Sequence[Basis]) -> Basis:
    """The basis of which these are parts, in the order of the handles."""
    tags = [len(each.tags) for each in pages]

    def joined(column: Callable[[Basis], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The rows of the tags of all pages, then those of the words; both in the order of their handles."""
        of_tags = [column(page)[:amount] for page, amount in zip(pages, tags, strict=True)]
        return np.concatenate(
            of_tags + [column(page)[amount:] for page, amount in zip(pages, tags, strict=True)]
        )

    return replace(
        pages[0],
        tags=np.concatenate([each.tags for each in pages]),
        words=np.concatenate([each.words for each in pages]),
        rarity=joined(lambda page: page.rarity),
        directions=joined(lambda page: page.directions),
    )


def basis_of(row: BasisRow, features: list[FeatureRow]) -> Basis:
    """A basis with some of its features, which are in the order of their handles."""
    ordered = [each for each in features if not each.is_word] + [each for each in features if each.is_word]
    tags = sum(not each.is_word for each in features)
    handles = pairs_of([each.handle for each in ordered])
    recipe = Recipe(**row.recipe)
    return Basis(
        recipe,
        handles[:tags],
        handles[tags:],
        np.array([each.rarity for each in ordered], np.float32),
        row.unseen,
        halves([each.direction for each in ordered], recipe.dimensions).astype(np.float32),
    )


async def read_centres(dao: GraphEmbeddingsDAO, basis: int) -> dict[str, Float32s]:
    """The centres of the cells of each type."""
    return {type_: centres_of(stored) for type_, stored in (await dao.cells(basis)).items()}


def centres_of(stored: Sequence[bytes]) -> Float32s:
    """Centres from how they are stored."""
    return np.frombuffer(b"".join(stored), _SINGLE).reshape(len(stored), -1).astype(np.float32)


def halves(stored: Sequence[bytes], dimensions: int) -> NDArray[np.float16]:
    """Vectors of 16 bits from how they are stored, shape (vectors, dimensions)."""
    return np.frombuffer(b"".join(stored), _HALF).reshape(-1, dimensions).astype(np.float16)
