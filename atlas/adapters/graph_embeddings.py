"""The vectors of atoms of this site's own graph, and the basis that they are on.

What is read is of one basis, the present one, if it is read with the number that `present` returned: vectors
on another basis are never among it. If the basis was replaced meanwhile, nothing is found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from atlas.adapters.dao import DAO

ROWS_AT_ONCE: Final = 2_000
_PAGE: Final = 4_000
_FIRST: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class BasisRow:
    """A basis by its number: learnt from so many videos, by a recipe; `unseen` weighs unknown features."""

    id: int
    videos: int
    unseen: float
    recipe: Mapping[str, Any]
    learnt_at: datetime


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A tag or a word by its handle, with its weight, and its direction as floats of 16 bits."""

    handle: UUID
    is_word: bool
    rarity: float
    direction: bytes


@dataclass(frozen=True, slots=True)
class VectorRow:
    """The vector of an atom as floats of 16 bits, and in which cell of its type it is."""

    handle: UUID
    type: str
    cell: int
    vector: bytes


class GraphEmbeddingsDAO(DAO):
    """Keeps a basis with its cells and vectors, and replaces it by another one at once."""

    async def present(self) -> BasisRow | None:
        """The basis whose vectors are used, if there is one."""
        row = await self._executor.fetchrow("graph_embeddings.present")
        return None if row is None else BasisRow(*row)

    # Writing

    async def begin(self, videos: int, recipe: Mapping[str, Any], unseen: float) -> int:
        """Begin a basis that was learnt now; returns its number. Others that never came to use are gone."""
        await self._executor.execute("graph_embeddings.drop_others")
        number: int = await self._executor.fetchval(
            "graph_embeddings.begin", self._clock.now(), videos, dict(recipe), unseen
        )
        return number

    async def add_features(self, basis: int, features: Sequence[FeatureRow]) -> None:
        """Store features of a basis."""
        await self._executor.execute(
            "graph_embeddings.add_features",
            basis,
            [each.handle for each in features],
            [each.is_word for each in features],
            [each.rarity for each in features],
            [each.direction for each in features],
        )

    async def add_cells(self, basis: int, type_: str, centres: Sequence[bytes]) -> None:
        """Store the centres of the cells for atoms of a type, as floats of 32 bits."""
        await self._executor.execute("graph_embeddings.add_cells", basis, type_, list(centres))

    async def put(self, basis: int, vectors: Sequence[VectorRow]) -> int:
        """Store the vectors of those of the atoms that are there; returns how many."""
        async with self._atomic() as executor:
            # Whoever removes atoms waits, and then sees the vectors to remove.
            await executor.execute("graph.lock", False)
            stored: int = await executor.fetchval(
                "graph_embeddings.put",
                basis,
                [each.handle for each in vectors],
                [each.type for each in vectors],
                [each.cell for each in vectors],
                [each.vector for each in vectors],
            )
        return stored

    async def drop(self, basis: int, handles: Sequence[UUID]) -> int:
        """Delete the vectors of some atoms."""
        return await self._executor.execute("graph_embeddings.drop", basis, list(handles))

    async def enter(self, basis: int) -> None:
        """Let a basis take the place of the present one, and delete all others."""
        async with self._atomic() as executor:
            await executor.execute("graph_embeddings.leave")
            await executor.execute("graph_embeddings.enter", basis)
        await self._executor.execute("graph_embeddings.drop_others")

    # Reading

    async def features(self, basis: int) -> AsyncIterator[list[FeatureRow]]:
        """All features of a basis, by their handles, in pages."""
        after = _FIRST
        while rows := await self._executor.fetch("graph_embeddings.features", basis, after, _PAGE):
            after = rows[-1]["handle"]
            yield [FeatureRow(*row) for row in rows]

    async def features_of(self, basis: int, handles: Sequence[UUID]) -> list[FeatureRow]:
        """Those of the features that a basis has, by their handles."""
        rows = await self._executor.fetch("graph_embeddings.features_of", basis, list(handles))
        return [FeatureRow(*row) for row in rows]

    async def cells(self, basis: int) -> dict[str, list[bytes]]:
        """The centres of the cells of each type."""
        found: dict[str, list[bytes]] = {}
        for row in await self._executor.fetch("graph_embeddings.cells", basis):
            found.setdefault(row["type"], []).append(row["centre"])
        return found

    async def cells_of(self, basis: int, type_: str) -> list[bytes]:
        """The centres of the cells of one type."""
        rows = await self._executor.fetch("graph_embeddings.cells_of", basis, type_)
        return [row["centre"] for row in rows]

    async def vectors(self, basis: int) -> AsyncIterator[list[tuple[UUID, bytes]]]:
        """All vectors on a basis, by their handles, in pages."""
        after = _FIRST
        while rows := await self._executor.fetch("graph_embeddings.page", basis, after, _PAGE):
            after = rows[-1]["handle"]
            yield [(row["handle"], row["vector"]) for row in rows]

    async def vectors_of(self, basis: int, handles: Sequence[UUID]) -> dict[UUID, bytes]:
        """The vectors of those of the atoms that have one."""
        rows = await self._executor.fetch("graph_embeddings.of_atoms", basis, list(handles))
        return {row["handle"]: row["vector"] for row in rows}

    async def in_cells(self, basis: int, type_: str, cells: Sequence[int], most: int) -> tuple[bytes, bytes]:
        """Vectors in some cells of a type, at most so many of each, by their handles.

        Returns the handles, of 16 bytes each, and the vectors.
        There may be thousands, so that a row for each would take longer to read than to compare.
        """
        row = await self._executor.fetchrow("graph_embeddings.in_cells", basis, type_, list(cells), most)
        assert row is not None
        return row["handles"] or b"", row["vectors"] or b""
