"""The knowledge graph page by page, for exports. Each page is read by a statement of its own."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from atlas.adapters.graph import FIRST, Atom, atoms_of
from atlas.adapters.graph_views import CalledAtom, GraphViewsDAO


class GraphExportsDAO(GraphViewsDAO):
    """Reads the atoms of one space by handle."""

    async def nodes(
        self,
        types: Sequence[str] | None = None,
        in_links: Sequence[str] | None = None,
        *,
        after: UUID = FIRST,
        limit: int,
    ) -> list[Atom]:
        """Nodes of some types that are in the outgoing sets of links of some types, after a handle."""
        rows = await self._executor.fetch("graph_exports.nodes", self.space, after, types, in_links, limit)
        return atoms_of(rows)

    async def links(
        self,
        types: Sequence[str] | None = None,
        between: Sequence[str] | None = None,
        *,
        after: UUID = FIRST,
        limit: int,
    ) -> list[Atom]:
        """Links of some types with all their ends of some types, after a handle."""
        rows = await self._executor.fetch("graph_exports.links", self.space, after, types, between, limit)
        return atoms_of(rows)

    async def links_from(self, handles: Sequence[UUID]) -> list[tuple[UUID, UUID, UUID | None]]:
        """Links that begin with one of some atoms, with that atom, and the other end of those of two."""
        rows = await self._executor.fetch("graph_exports.links_from", self.space, list(handles))
        return [(row["link"], row["target"], row["other"]) for row in rows]

    async def used(self, handles: Sequence[UUID]) -> set[UUID]:
        """Those of the atoms that are in the outgoing set of a link."""
        rows = await self._executor.fetch("graph_exports.used", self.space, list(handles))
        return {row["handle"] for row in rows}

    async def called(self, handles: Sequence[UUID]) -> dict[UUID, CalledAtom]:
        """What those of the atoms that are there are, without what people call them, which takes longer."""
        rows = await self._executor.fetch("graph_exports.what", self.space, list(handles))
        return {row["handle"]: CalledAtom(*row) for row in rows}
