"""Topic communities: groups of videos, channels and topics that are linked over the same tags."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np

from atlas.adapters.graph import OWN
from atlas.composition import Atlas
from maia.graph.adjacency import adjacency
from maia.graph.arrays import NO_ATOM, GraphArrays
from maia.graph.communities import cluster, telling
from maia.graph.standing import LINKS
from maia.graphing.present import present_arrays

_LEFT_OUT: Final = ("agent", "category", "pattern")
"""They connect nearly everything."""
_TELLING: Final = "tag"


@dataclass(frozen=True, slots=True)
class Community:
    """How many atoms of each type it has, the tags that tell most of it, and its most linked members."""

    size: int
    by_type: dict[str, int]
    tags: tuple[UUID, ...]
    members: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Communities, the largest first or only one that was asked for, of how many; and their modularity."""

    communities: tuple[Community, ...]
    total: int
    modularity: float


async def group(
    atlas: Atlas,
    *,
    types: Sequence[str] = LINKS,
    of: UUID | None = None,
    limit: int = 10,
    resolution: float = 1.0,
    seed: int = 0,
    space: int = OWN,
) -> Grouping:
    """The largest communities over links of some types, or that of an atom, if it is in one.

    The same graph and seed give the same communities; a higher resolution gives more and smaller ones.
    """
    arrays = await present_arrays(atlas, space)
    return await asyncio.to_thread(_grouped, arrays, types, of, limit, resolution, seed)


def _grouped(
    arrays: GraphArrays, types: Sequence[str], of: UUID | None, limit: int, resolution: float, seed: int
) -> Grouping:
    nodes = {arrays.types[code] for code in np.unique(arrays.type_of[np.diff(arrays.outgoing_starts) == 0])}
    graph = adjacency(arrays, links=types, nodes=nodes.difference(_LEFT_OUT))
    found = cluster(graph, resolution=resolution, seed=seed)
    # What is linked with nothing is a community of its own, which nobody asks for.
    total = int((np.bincount(found.labels, minlength=1) > 1).sum())
    wanted = list(range(min(limit, total)))
    if of is not None:
        [row] = graph.rows(arrays.places([of])).tolist()
        wanted = [] if row == NO_ATOM else [int(found.labels[row])]
    tags = graph.rows(arrays.of_type(_TELLING))
    best = telling(graph, found, tags[tags != NO_ATOM])
    degrees = graph.degrees()
    groups = []
    for number in wanted:
        rows = np.flatnonzero(found.labels == number)
        counts = np.bincount(arrays.type_of[graph.places[rows]], minlength=len(arrays.types)).tolist()
        others = rows[~np.isin(rows, tags)]
        most = others[np.argsort(-degrees[others], kind="stable")][: members_shown(limit, of)]
        groups.append(
            Community(
                size=len(rows),
                by_type={name: amount for name, amount in zip(arrays.types, counts, strict=True) if amount},
                tags=tuple(arrays.handle(int(graph.places[each])) for each in best[number].tolist()),
                members=tuple(arrays.handle(int(graph.places[each])) for each in most.tolist()),
            )
        )
    return Grouping(tuple(groups), total, found.modularity)


def members_shown(limit: int, of: UUID | None) -> int:
    """How many members of each community: more of that of an atom."""
    return 3 if of is None else limit
