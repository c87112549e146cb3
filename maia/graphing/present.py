"""The graph of the database as arrays, from the copy on this machine and what has changed since."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from atlas.adapters.graph import OWN
from atlas.adapters.graph_columns import GraphColumns, GraphColumnsDAO
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import UnknownCursor
from maia.graph.arrays import GraphArrays, pairs_of
from maia.graph.building import attended
from maia.graph.merging import update
from maia.graph.values import Values
from maia.graphing.cache import CachedGraph, ColumnCache
from maia.graphing.reading import arrays_from, attention_of, values_from

logger = logging.getLogger(__name__)

_TRUSTED: Final = timedelta(days=1)
"""Changes are only complete for as long as the database keeps tombstones, which is far longer."""


def cache_of(settings: Settings, space: int = OWN) -> ColumnCache:
    """Where this machine keeps the arrays of a space."""
    return ColumnCache(settings.data_folder / "graph-cache" / str(space), settings.graph.cache_mb << 20)


async def present_arrays(atlas: Atlas, space: int = OWN) -> GraphArrays:
    """What `read_arrays` returns; only what has changed is read if there is a copy to begin with."""
    graph, _ = await _present(atlas, space, with_values=False)
    return graph


async def present_graph(atlas: Atlas, space: int = OWN) -> tuple[GraphArrays, Values]:
    """The same with all values that atoms had at that moment."""
    graph, columns = await _present(atlas, space, with_values=True)
    return graph, await asyncio.to_thread(values_from, columns, graph)


async def _present(atlas: Atlas, space: int, *, with_values: bool) -> tuple[GraphArrays, GraphColumns]:
    dao = GraphColumnsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    cache, now = cache_of(atlas.settings, space), atlas.clock.now()
    followed = await _followed(partial(dao.changes, space, with_values=with_values), cache, now)
    if followed is not None:
        return followed
    columns = await dao.read(space, with_values=with_values)
    graph = await asyncio.to_thread(arrays_from, columns)
    await _keep(cache, CachedGraph(graph, columns.cursor, now))
    return graph, columns


async def _followed(
    changes: Callable[[str], Awaitable[GraphColumns]], cache: ColumnCache, now: datetime
) -> tuple[GraphArrays, GraphColumns] | None:
    """The copy with what has changed since; None if it is of no use, and all must be read."""
    cached = await cache.load()
    if cached is None or not timedelta(0) <= now - cached.at < _TRUSTED:
        return None
    try:
        columns = await changes(cached.cursor)
        graph = await asyncio.to_thread(_updated, cached.graph, columns)
    except UnknownCursor:
        return None
    except ValueError as error:
        logger.info("the copy of the graph cannot be brought up to date: %s", error)
        return None
    # A space that is filled anew leaves no trace of what was in it.
    if len(graph) != columns.size:
        return None
    # All attention is read each time anyway.
    if len(columns.rows) or columns.gone:
        await _keep(cache, CachedGraph(graph, columns.cursor, now))
    return graph, columns


def _updated(graph: GraphArrays, columns: GraphColumns) -> GraphArrays:
    if len(columns.rows) or columns.gone:
        graph = update(graph, arrays_from(columns), pairs_of(columns.gone))
    return attended(graph, attention_of(columns))


async def _keep(cache: ColumnCache, present: CachedGraph) -> None:
    try:
        await cache.store(present.graph, present.cursor, present.at)
    except OSError as error:
        logger.warning(
            "the copy of the graph in %s can't be written, and the next one is read from the database: %s",
            cache.folder,
            error,
            extra={"action": "graph_cache_failed"},
        )
