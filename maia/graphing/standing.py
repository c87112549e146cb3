"""Keeping where atoms stand in the whole graph, as values of theirs; only those that differ are written."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph_standing import GraphStandingDAO, Key
from atlas.composition import Atlas
from atlas.conflicts import retry_conflicts
from maia.graph.arrays import NO_ATOM, Float64s, GraphArrays, Int64s, UInt64s, places_of
from maia.graph.standing import ALONE, Standing, standing
from maia.graphing.embedding import uuid_of

_AT_ONCE = 5_000


async def stand(atlas: Atlas, facts: GraphArrays) -> int:
    """Compute the standing of all atoms of the facts, and write what differs; returns how many values."""
    dao = GraphStandingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    rows = await dao.numbers("community")
    found = await asyncio.to_thread(_standing, facts, rows["handle"].astype(np.uint64), rows["number"])
    grouped = found.communities != ALONE
    written = await _write(dao, "community", facts, found.places[grouped], found.communities[grouped] * 1.0)
    written += await _write(dao, "pagerank", facts, found.places, found.ranks)
    communities = {
        number: [facts.handle(place) for place in tags.tolist()] for number, tags in found.tags.items()
    }
    await dao.group(communities, found.modularity)
    return written


def _standing(facts: GraphArrays, handles: UInt64s, numbers: NDArray[np.float64]) -> Standing:
    former = np.full(len(facts), ALONE, np.int64)
    places = places_of(facts.handles, handles)
    former[places[places != NO_ATOM]] = numbers[places != NO_ATOM]
    return standing(facts, former)


async def _write(
    dao: GraphStandingDAO, key: Key, facts: GraphArrays, places: Int64s, numbers: Float64s
) -> int:
    """Let these atoms have these numbers under a key, and no others; returns how many changed."""
    rows = await dao.numbers(key)
    former = places_of(facts.handles, rows["handle"].astype(np.uint64))
    due, gone = await asyncio.to_thread(_differing, len(facts), places, numbers, former, rows["number"])
    for begin in range(0, len(due), _AT_ONCE):
        some = due[begin : begin + _AT_ONCE]
        handles = [facts.handle(place) for place in places[some].tolist()]
        async for attempt in retry_conflicts():
            with attempt:
                await dao.set_numbers(key, handles, numbers[some].tolist())
    for begin in range(0, len(gone), _AT_ONCE):
        taken = rows["handle"][gone[begin : begin + _AT_ONCE]].astype(np.uint64)
        await dao.drop_numbers(key, [uuid_of(each) for each in taken])
    return len(due) + len(gone)


def _differing(
    size: int, places: Int64s, numbers: Float64s, former: Int64s, former_numbers: Float64s
) -> tuple[Int64s, Int64s]:
    """Which of the places must get their numbers, and which of the former ones must lose theirs."""
    known = np.full(size, np.nan)
    there = former != NO_ATOM
    known[former[there]] = former_numbers[there]
    due = np.flatnonzero(known[places] != numbers)
    gone = np.flatnonzero(~there | ~np.isin(former, places))
    return due, gone
