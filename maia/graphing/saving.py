"""Snapshots of the graph in the vault: taken as increments, chained to full ones, and restored.

What reads the graph of the database, and what stores a snapshot there, is given by the caller. A
snapshot holds what was known of videos then, so it is deleted when metadata that old would be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import Final, TypeAlias

from atlas.adapters.graph import GraphDAO
from atlas.composition import Atlas
from atlas.errors import ObjectNotFound
from maia.cycle.snapshot_chains import MOST_INCREMENTS, Series, StoredSnapshot, chain_of, too_old
from maia.errors import MaiaError
from maia.graph import files
from maia.graph.arrays import GraphArrays
from maia.graph.checking import check_handles
from maia.graph.files import GraphSnapshot
from maia.graph.values import Values
from maia.learning.column_file import SnapshotError, id_of

logger = logging.getLogger(__name__)

Read: TypeAlias = Callable[[], Awaitable[tuple[GraphArrays, Values]]]
Store: TypeAlias = Callable[[GraphSnapshot], Awaitable[object]]

_SERIES: Final = Series("graph/", "plgraph", "graph snapshot")
_SMALLER: Final = 0.5
"""An increment that is larger than this share of the full snapshot isn't worth the longer chain."""


class GraphCopyRefused(MaiaError):
    """The snapshot is damaged or not there: nothing of it was stored."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was taken now."""

    snapshot: StoredSnapshot
    bytes: int
    atoms: int
    """Atoms in it: of an increment, those that are new or have changed, and all that these need."""
    removed: int
    deleted: int
    """Old snapshots that were deleted then."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, from the full snapshot to the increment that was asked for."""

    chain: Sequence[StoredSnapshot]
    atoms: int


@dataclass(frozen=True, slots=True)
class _Base:
    """The state of the last snapshot, its id, and the size of the full one that it goes back to."""

    id: str
    state: GraphSnapshot
    full_bytes: int


async def stored(atlas: Atlas) -> list[StoredSnapshot]:
    """The snapshots in the vault, oldest first."""
    return await _SERIES.stored(atlas)


async def is_due(atlas: Atlas) -> bool:
    """Whether the settings want a snapshot by now."""
    interval_h = atlas.settings.graph.snapshot_interval_h
    if not interval_h:
        return False
    due = await _SERIES.is_due(atlas, interval_h)
    if due is None:
        dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        return bool(await dao.count_by_type())
    return due


async def take(atlas: Atlas, read: Read, *, full: bool = False) -> Taken:
    """Take a snapshot and delete those that are too old.

    It is an increment on the last one unless `full`, or if that one's chain is long enough or damaged, or so
    much has changed that an increment would be large.
    """
    at = atlas.clock.now()
    graph, values = await read()
    known = await stored(atlas)
    before = at - timedelta(days=atlas.settings.maintainer.retention.metadata_days)
    base = None if full else await _base(atlas, known, before)
    whole = GraphSnapshot(graph, at, atlas.clock.now(), values=values)
    snapshot, body = await asyncio.to_thread(_written, whole, base)
    taken = _SERIES.new(whole.saved_at, id_of(body), snapshot.base, known)
    await atlas.vault.store(taken.name, body)
    await _SERIES.remember(atlas, whole.saved_at)
    kept = atlas.settings.graph.snapshots_kept
    old = too_old([*known, taken], kept, lambda chain: chain[0].at < before)
    await atlas.vault.delete_many(old)
    return Taken(taken, len(body), len(snapshot.graph), len(snapshot.removed), len(old))


async def restore(atlas: Atlas, store: Store, name: str | None = None) -> Restored:
    """Store the graph of a snapshot, the last one unless named, after all it is based on has been verified.

    GraphCopyRefused says what is damaged or missing; nothing is stored then.
    """
    known = await stored(atlas)
    if not known:
        raise GraphCopyRefused("there is no snapshot of the graph in the vault")
    wanted = known[-1] if name is None else _chosen(known, name)
    try:
        chain = chain_of(wanted, known)
        _, state = await asyncio.to_thread(_restored, await _bodies(atlas, chain))
        await asyncio.to_thread(check_handles, state.graph)
    except (ValueError, ObjectNotFound) as error:
        raise GraphCopyRefused(
            f"{wanted.name} can't be restored: {error}: name an earlier snapshot"
        ) from error
    await store(state)
    return Restored(chain, len(state.graph))


def _written(whole: GraphSnapshot, base: _Base | None) -> tuple[GraphSnapshot, bytes]:
    if base is not None:
        increment = files.difference(base.state, base.id, whole)
        body = b"".join(files.write(increment))
        if len(body) < _SMALLER * base.full_bytes:
            return increment, body
    return whole, b"".join(files.write(whole))


async def _base(atlas: Atlas, known: Sequence[StoredSnapshot], before: datetime) -> _Base | None:
    """What the next snapshot is an increment on; None if it must be full."""
    if not known:
        return None
    try:
        chain = chain_of(known[-1], known)
        if len(chain) > MOST_INCREMENTS or chain[0].at < before:
            return None
        bodies = await _bodies(atlas, chain)
        return _Base(*await asyncio.to_thread(_restored, bodies), len(bodies[0]))
    except (SnapshotError, ObjectNotFound) as error:
        logger.warning(
            "the snapshot %s is no good, so that the next one is full: %s",
            known[-1].name,
            error,
            extra={"action": "snapshot_damaged"},
        )
        return None


async def _bodies(atlas: Atlas, chain: Sequence[StoredSnapshot]) -> list[bytes]:
    return [await atlas.vault.fetch_bytes(each.name) for each in chain]


def _restored(bodies: Sequence[bytes]) -> tuple[str, GraphSnapshot]:
    return files.restored(map(BytesIO, bodies))


def _chosen(known: Sequence[StoredSnapshot], name: str) -> StoredSnapshot:
    found = _SERIES.chosen(known, name)
    if len(found) != 1:
        how_many = "no snapshot" if not found else "more than one snapshot"
        raise GraphCopyRefused(f"{how_many} of the graph has the name or id {name!r}")
    return found[0]
