"""Putting the graph of a snapshot in place of what there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import numpy as np

from atlas.adapters.graph import OURS, OWN, AtomType, GraphDAO
from atlas.adapters.graph_loading import GraphLoadingDAO
from atlas.composition import Atlas
from maia.errors import MaiaError
from maia.graph.arrays import GraphArrays
from maia.graph.files import GraphSnapshot
from maia.graph.merging import part_of, without_loose
from maia.graphing import deriving, feeding
from maia.graphing.reading import columns_of

_WAIT_S: Final = 60
_PAUSE_S: Final = 0.5


class GraphBusy(MaiaError):
    """Somebody feeds the graph, or derives from it, who would go on with what it was before."""


async def replace_graph(atlas: Atlas, snapshot: GraphSnapshot, *, wait_s: float = _WAIT_S) -> None:
    """Put the atoms of a snapshot, with attention and values, in place of this site's graph.

    The next feeder brings it up to date, and derives from it what is no atom. GraphBusy if another one is at
    work for that long.
    """
    graph = await asyncio.to_thread(_own, snapshot.graph)
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    known, arity = await dao.types(), np.diff(graph.outgoing_starts)
    columns = await asyncio.to_thread(columns_of, graph, snapshot.values)
    loading = GraphLoadingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    async with AsyncExitStack() as stack:
        # A feeder or deriver that went on with what it had read would take the graph for whole afterwards.
        for lock in (feeding.LOCK, deriving.LOCK):
            await stack.enter_async_context(_alone(atlas, lock, wait_s))
        for code, name in enumerate(graph.types):
            if name not in known:
                is_link = bool(arity[graph.type_of == code].any())
                await dao.add_type(AtomType(name, is_link, is_symmetric=False, what="a type of the copy"))
        await loading.load(OWN, columns)


def _own(graph: GraphArrays) -> GraphArrays:
    """The graph without atoms that only other sites say are there, and without links to those."""
    kept = without_loose(graph, graph.sources & OURS > 0)
    return graph if kept.all() else part_of(graph, kept)


@asynccontextmanager
async def _alone(atlas: Atlas, lock: str, wait_s: float) -> AsyncIterator[None]:
    """Hold a lock, once whoever has it is done."""
    for _ in range(int(wait_s / _PAUSE_S) + 1):
        async with atlas.db.only_one(lock) as is_only:
            if is_only:
                yield
                return
        await asyncio.sleep(_PAUSE_S)
    raise GraphBusy(f"the {lock} is at work: try again in a few minutes; nothing was changed")
