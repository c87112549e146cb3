"""The graph of the database as arrays, from the copy on this machine and what has changed since."""

from __future__ import annotations

import asyncio
import logging

from atlas.adapters.graph import OWN
from atlas.adapters.graph_columns import GraphColumns, GraphColumnsDAO
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import UnknownCursor
from maia.graph.arrays import GraphArrays
from maia.graph.building import attended
from maia.graph.merging import update
from maia.graphing.cache import CachedGraph, ColumnCache
from maia.graphing.reading import arrays_from, attention_of, pairs_of

logger = logging.getLogger(__name__)


def cache_of(settings: Settings, space: int = OWN) -> ColumnCache:
    """Where this machine keeps the arrays of a space."""
    return ColumnCache(settings.data_folder / "graph-cache" / str(space), settings.graph.cache_mb << 20)


async def present_arrays(atlas: Atlas, space: int = OWN) -> GraphArrays:
    """What `read_arrays` returns; only what has changed is read if there is a copy to begin with."""
    cache = cache_of(atlas.settings, space)
    dao = GraphColumnsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    cached = await cache.load()
    columns = None if cached is None else await _changes(dao, space, cached)
    if cached is None or columns is None:
        columns = await dao.read(space)
        graph = await asyncio.to_thread(arrays_from, columns)
    else:
        graph = await asyncio.to_thread(_updated, cached.graph, columns)
    # All attention is read each time anyway.
    if cached is None or len(columns.rows) or columns.gone:
        await _keep(cache, graph, columns.cursor)
    return graph


async def _changes(dao: GraphColumnsDAO, space: int, cached: CachedGraph) -> GraphColumns | None:
    """What has changed since the copy; None if it is of another database."""
    try:
        return await dao.changes(space, cached.cursor)
    except UnknownCursor:
        return None


def _updated(graph: GraphArrays, columns: GraphColumns) -> GraphArrays:
    if len(columns.rows) or columns.gone:
        graph = update(graph, arrays_from(columns), pairs_of(columns.gone))
    return attended(graph, attention_of(columns))


async def _keep(cache: ColumnCache, graph: GraphArrays, cursor: str) -> None:
    try:
        await cache.store(graph, cursor)
    except OSError as error:
        logger.warning(
            "the copy of the graph in %s can't be written, and the next one is read from the database: %s",
            cache.folder,
            error,
            extra={"action": "graph_cache_failed"},
        )
