"""Snapshots of the patterns in the vault: taken as increments, chained to full ones, and restored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.errors import ObjectNotFound
from maia.cycle.snapshot_chains import MOST_INCREMENTS, Series, StoredSnapshot, chain_of, too_old
from maia.learner import copies
from maia.learner.copies import CopyRefused, Merged
from maia.learning import snapshots
from maia.learning.column_file import SnapshotError, id_of
from maia.learning.snapshots import Snapshot

logger = logging.getLogger(__name__)

CHAINS_KEPT: Final = 7

_SERIES: Final = Series("patterns/", "plpat", "snapshot")


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was taken now."""

    snapshot: StoredSnapshot
    bytes: int
    patterns: int
    """Patterns in it: of an increment, those that are new or have changed."""
    evidence: int
    deleted: int
    """Old snapshots that were deleted then."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, from the full snapshot to the increment that was asked for."""

    chain: Sequence[StoredSnapshot]
    merged: Merged


async def stored(atlas: Atlas) -> list[StoredSnapshot]:
    """The snapshots in the vault, oldest first."""
    return await _SERIES.stored(atlas)


async def is_due(atlas: Atlas) -> bool:
    """Whether the settings want a snapshot by now."""
    interval_h = atlas.settings.learner.snapshot_interval_h
    if not interval_h:
        return False
    due = await _SERIES.is_due(atlas, interval_h)
    return await _dao(atlas).count_known() > 0 if due is None else due


async def take(atlas: Atlas, *, full: bool = False) -> Taken:
    """Take a snapshot and delete those that are too old.

    It is an increment on the last one unless `full`, or if that one's chain is long enough or damaged.
    """
    dao, now = _dao(atlas), atlas.clock.now()
    whole = await copies.present(dao, atlas.settings.learner, now)
    known = await stored(atlas)
    base = None if full else await _base(atlas, known)
    snapshot, body = await asyncio.to_thread(_written, whole, base)
    taken = _SERIES.new(now, id_of(body), None if base is None else base[0], known)
    await atlas.vault.store(taken.name, body)
    await _SERIES.remember(atlas, now)
    before = now - timedelta(days=atlas.settings.learner.max_retention_days)
    old = too_old([*known, taken], CHAINS_KEPT, lambda chain: chain[-1].at < before)
    await atlas.vault.delete_many(old)
    return Taken(taken, len(body), len(snapshot.patterns), len(snapshot.evidence), len(old))


async def restore(atlas: Atlas, name: str | None = None) -> Restored:
    """Merge a snapshot, the last one unless named, after it and all it is based on have been verified.

    CopyRefused says what is damaged or missing. Nothing is lowered, and nothing stored if it fails.
    """
    known = await stored(atlas)
    if not known:
        raise CopyRefused("there is no snapshot in the vault: maia patterns snapshot takes one")
    wanted = known[-1] if name is None else _chosen(known, name)
    try:
        chain = chain_of(wanted, known)
        copy = await _read(atlas, chain)
    except (SnapshotError, ObjectNotFound) as error:
        raise CopyRefused(f"{wanted.name} can't be restored: {error}") from error
    merged = await copies.merge(_dao(atlas), atlas.settings.learner, copy, atlas.clock.now())
    return Restored(chain, merged)


def _written(whole: Snapshot, base: tuple[str, Snapshot] | None) -> tuple[Snapshot, bytes]:
    snapshot = whole if base is None else snapshots.difference(base[1], base[0], whole)
    return snapshot, snapshots.write(snapshot)


async def _base(atlas: Atlas, known: Sequence[StoredSnapshot]) -> tuple[str, Snapshot] | None:
    """The whole id and the state of the last snapshot; None if the next one must be full."""
    if not known:
        return None
    try:
        chain = chain_of(known[-1], known)
        if len(chain) > MOST_INCREMENTS:
            return None
        bodies = [await atlas.vault.fetch_bytes(each.name) for each in chain]
        return id_of(bodies[-1]), await asyncio.to_thread(snapshots.restored, bodies)
    except (SnapshotError, ObjectNotFound) as error:
        logger.warning(
            "the snapshot %s is no good, so that the next one is full: %s",
            known[-1].name,
            error,
            extra={"action": "snapshot_damaged"},
        )
        return None


async def _read(atlas: Atlas, chain: Sequence[StoredSnapshot]) -> Snapshot:
    bodies = [await atlas.vault.fetch_bytes(each.name) for each in chain]
    return await asyncio.to_thread(snapshots.restored, bodies)


def _chosen(known: Sequence[StoredSnapshot], name: str) -> StoredSnapshot:
    found = _SERIES.chosen(known, name)
    if len(found) != 1:
        how_many = "no snapshot" if not found else "more than one snapshot"
        raise CopyRefused(f"{how_many} has the name or id {name!r}: maia patterns snapshots lists them")
    return found[0]


def _dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
