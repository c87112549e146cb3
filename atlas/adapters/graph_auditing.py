"""Reading the graph and the facts at one moment, to be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from numpy.typing import NDArray

from atlas.adapters.dao import DAO
from atlas.adapters.graph_columns import UUID_FORM, copied, row_form, streamed

NODE_FORM: Final = row_form(handle=UUID_FORM, type=">i2", stands="?")
LINK_FORM: Final = row_form(handle=UUID_FORM, first=UUID_FORM, stands="?")
_LAST: Final = (1 << 128) - 1


class GraphAuditDAO(DAO):
    """Reads what there is in this site's graph, and who has facts."""

    async def nodes(self, types: Sequence[str]) -> NDArray[Any]:
        """All nodes: `handle`, `type`, a place in `types` from 1 on, or 0, and `stands`, by the facts."""
        return await copied(self._executor, NODE_FORM, "graph_auditing.nodes", list(types))

    async def links(self, types: Sequence[str], take: Callable[[NDArray[Any]], None], parts: int = 1) -> None:
        """Hand over the links that the facts say are there, some at a time, in no order.

        They have `handle`, `first`, where they begin, and `stands`, whether they have the evidence of facts.
        `take` is called in another thread. Each of the parts is read by a statement of its own.
        """

        async def hear(rows: NDArray[Any]) -> None:
            await asyncio.to_thread(take, rows)

        bounds = [(_LAST + 1) * nth // parts for nth in range(parts + 1)]
        for low, high in pairwise(bounds):
            args = list(types), UUID(int=low), UUID(int=high - 1)
            await streamed(self._executor, LINK_FORM, "graph_auditing.links", *args, take=hear)

    async def names(self, nodes: Sequence[UUID]) -> list[tuple[str, str]]:
        """The types and names of nodes."""
        rows = await self._executor.fetch("graph_auditing.names", list(nodes))
        return [(row["type"], row["name"]) for row in rows]

    async def videos(self, after: str, limit: int) -> list[str]:
        """The ids of some videos that are stored, after one."""
        return [row["id"] for row in await self._executor.fetch("graph_auditing.videos", after, limit)]

    async def topics(self) -> list[str]:
        """The keys of all topics."""
        return [row["key"] for row in await self._executor.fetch("graph_auditing.topics")]
