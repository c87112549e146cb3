"""The graph of the database as arrays, from the copy on this machine and what has changed since."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from atlas.adapters.graph import OWN, AtomType, GraphDAO
from atlas.adapters.graph_columns import GraphColumns, GraphColumnsDAO
from atlas.adapters.graph_loading import GraphLoadingDAO
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import UnknownCursor
from maia.graph.arrays import GraphArrays, pairs_of
from maia.graph.building import attended
from maia.graph.merging import update
from maia.graphing.cache import CachedGraph, ColumnCache
from maia.graphing.reading import arrays_from, attention_of, columns_of

logger = logging.getLogger(__name__)

_TRUSTED: Final = timedelta(days=1)
"""Changes are only complete for as long as the database keeps tombstones, which is far longer."""


def cache_of(settings: Settings, space: int = OWN) -> ColumnCache:
    """Where this machine keeps the arrays of a space."""
    return ColumnCache(settings.data_folder / "graph-cache" / str(space), settings.graph.cache_mb << 20)


async def present_arrays(atlas: Atlas, space: int = OWN) -> GraphArrays:
    """What `read_arrays` returns; only what has changed is read if there is a copy to begin with."""
    dao = GraphColumnsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    cache, now = cache_of(atlas.settings, space), atlas.clock.now()
    graph = await _followed(dao, space, cache, now)
    if graph is None:
        columns = await dao.read(space)
        graph = await asyncio.to_thread(arrays_from, columns)
        await _keep(cache, CachedGraph(graph, columns.cursor, now))
    return graph


async def replace_graph(atlas: Atlas, graph: GraphArrays) -> None:
    """Put arrays in place of this site's graph, without values; the next feeder brings it up to date."""
    dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    known, arity = await dao.types(), np.diff(graph.outgoing_starts)
    for code, name in enumerate(graph.types):
        if name not in known:
            is_link = bool(arity[graph.type_of == code].any())
            await dao.add_type(AtomType(name, is_link, is_symmetric=False, what="a type of the copy"))
    columns = await asyncio.to_thread(columns_of, graph, atlas.clock.now())
    loading = GraphLoadingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    await loading.load(OWN, columns)


async def _followed(
    dao: GraphColumnsDAO, space: int, cache: ColumnCache, now: datetime
) -> GraphArrays | None:
    """The copy with what has changed since; None if it is of no use, and all must be read."""
    cached = await cache.load()
    if cached is None or not timedelta(0) <= now - cached.at < _TRUSTED:
        return None
    try:
        columns = await dao.changes(space, cached.cursor)
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
    return graph


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
