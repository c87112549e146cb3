"""The communities of this site's own graph, and where atoms stand in it, as numbers that are their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from numpy.typing import NDArray

from atlas.adapters.dao import DAO
from atlas.adapters.graph_columns import UUID_FORM, copied, row_form

Key: TypeAlias = Literal["community", "pagerank"]

NUMBER_FORM: Final = row_form(handle=UUID_FORM, number=">f8")
MEMBER_FORM: Final = row_form(handle=UUID_FORM, community=">f8", pagerank=">f8", type=">i4")


class GraphCommunitiesDAO(DAO):
    """Keeps what was found in the whole graph."""

    async def numbers(self, key: Key) -> NDArray[Any]:
        """The atoms with a number under a key, by handle: `handle` and `number`."""
        return await copied(self._executor, NUMBER_FORM, "graph_communities.numbers", key)

    async def set_numbers(self, key: Key, handles: Sequence[UUID], numbers: Sequence[float]) -> int:
        """Give atoms that are there numbers; returns how many."""
        async with self._atomic() as executor:
            await executor.execute("graph.lock", False)
            return await executor.execute("graph_communities.set_numbers", key, list(handles), list(numbers))

    async def drop_numbers(self, key: Key, handles: Sequence[UUID]) -> int:
        """Take their numbers from atoms; returns from how many."""
        return await self._executor.execute("graph_communities.drop_numbers", key, list(handles))

    async def members(self, types: Sequence[str]) -> NDArray[Any]:
        """All atoms that are in a community, by handle: `handle`, `community`, `pagerank` and `type`.

        The latter is the place of its type, counted from 1, or 0 for another.
        """
        return await copied(self._executor, MEMBER_FORM, "graph_communities.members", list(types))

    async def group(self, communities: Mapping[int, Sequence[UUID]], modularity: float) -> None:
        """Let these be the communities as of now, with the tags that tell most of each."""
        async with self._atomic() as executor:
            await executor.execute("graph_communities.empty_communities")
            await executor.execute(
                "graph_communities.add_communities",
                list(communities),
                [len(tags) for tags in communities.values()],
                [tag for tags in communities.values() for tag in tags],
            )
            await executor.execute("graph_communities.note_grouped", self._clock.now(), modularity)

    async def communities(self) -> dict[int, list[UUID]]:
        """The tags that tell most of each community."""
        rows = await self._executor.fetch("graph_communities.communities")
        return {row["number"]: row["tags"] for row in rows}

    async def grouped(self) -> tuple[datetime, float] | None:
        """When communities were found, and their modularity; None if they never were."""
        row = await self._executor.fetchrow("graph_communities.grouped")
        if row is None or row["grouped_at"] is None:
            return None
        return row["grouped_at"], row["modularity"]
