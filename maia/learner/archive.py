"""Snapshots of the patterns in the vault: taken as increments, chained to full ones, verified and restored.

A snapshot's name says when it was taken, its id, and the id of the snapshot on which it is an increment:
`patterns/20261129T120000.000000Z-0123456789abcdef-full.plpat`, or `…-on-fedcba9876543210.plpat`. So the list
of the names is enough to find a chain, and two learners that take one at once don't hurt each other.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.errors import LeaseLost, ObjectNotFound
from maia.learner import copies
from maia.learner.copies import CopyRefused, Merged
from maia.learning import snapshots
from maia.learning.snapshots import Snapshot, SnapshotError

logger = logging.getLogger(__name__)

FOLDER: Final = "patterns/"
MOST_INCREMENTS: Final = 6
"""With a snapshot a day a chain is a week."""
CHAINS_KEPT: Final = 7

_CURSOR: Final = "snapshot"
_NEVER: Final = "never"
_ID_DIGITS: Final = 16
_INSTANT: Final = "%Y%m%dT%H%M%S.%fZ"
_NAME: Final = re.compile(
    rf"{FOLDER}(?P<at>\d{{8}}T\d{{6}}\.\d{{6}}Z)-(?P<id>[0-9a-f]{{{_ID_DIGITS}}})-"
    rf"(?:full|on-(?P<base>[0-9a-f]{{{_ID_DIGITS}}}))\.plpat"
)


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot in the vault; without a base it is a full one."""

    name: str
    at: datetime
    id: str
    """The first digits of its id."""
    base: str | None

    @property
    def is_full(self) -> bool:
        return self.base is None


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
    """The snapshots in the vault, oldest first. Other objects in the folder are passed over."""
    found = (_named(name) for name in await atlas.vault.list(FOLDER))
    return sorted((each for each in found if each is not None), key=lambda each: (each.at, each.name))


async def is_due(atlas: Atlas) -> bool:
    """Whether the settings want a snapshot by now."""
    interval_h = atlas.settings.learner.snapshot_interval_h
    if not interval_h:
        return False
    last = await _dao(atlas).cursor(_CURSOR, _NEVER)
    if last == _NEVER:
        return await _dao(atlas).count_known() > 0
    passed = atlas.clock.now() - datetime.fromisoformat(last)
    # A last one that is yet to come was taken while the clock was ahead.
    return passed >= timedelta(hours=interval_h) or passed < timedelta(0)


async def take(atlas: Atlas, *, full: bool = False) -> Taken:
    """Take a snapshot and delete those that are too old.

    It is an increment on the last one unless `full`, or if that one's chain is long enough or damaged.
    """
    dao, now = _dao(atlas), atlas.clock.now()
    whole = await copies.present(dao, atlas.settings.learner, now)
    known = await stored(atlas)
    base = None if full else await _base(atlas, known)
    snapshot = whole if base is None else snapshots.difference(base[1], base[0], whole)
    body = snapshots.write(snapshot)
    # Later than the last one, by whatever clock that was taken: it is found by its instant.
    at = max(now, known[-1].at + timedelta(microseconds=1)) if known else now
    taken = _new(at, snapshots.id_of(body), None if base is None else base[0])
    await atlas.vault.store(taken.name, body)
    await _remember(dao, now)
    old = _too_old([*known, taken], now - timedelta(days=atlas.settings.learner.max_retention_days))
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
        chain = _chain(wanted, known)
        copy = await _read(atlas, chain)
    except (SnapshotError, ObjectNotFound) as error:
        raise CopyRefused(f"{wanted.name} can't be restored: {error}") from error
    merged = await copies.merge(_dao(atlas), atlas.settings.learner, copy, atlas.clock.now())
    return Restored(chain, merged)


async def _base(atlas: Atlas, known: Sequence[StoredSnapshot]) -> tuple[str, Snapshot] | None:
    """The whole id and the state of the last snapshot; None if the next one must be full."""
    if not known:
        return None
    try:
        chain = _chain(known[-1], known)
        if len(chain) > MOST_INCREMENTS:
            return None
        bodies = [await atlas.vault.fetch_bytes(each.name) for each in chain]
        return snapshots.id_of(bodies[-1]), snapshots.restored(bodies)
    except (SnapshotError, ObjectNotFound) as error:
        logger.warning(
            "the snapshot %s is no good, so that the next one is full: %s",
            known[-1].name,
            error,
            extra={"action": "snapshot_damaged"},
        )
        return None


async def _read(atlas: Atlas, chain: Sequence[StoredSnapshot]) -> Snapshot:
    return snapshots.restored([await atlas.vault.fetch_bytes(each.name) for each in chain])


def _chain(last: StoredSnapshot, known: Sequence[StoredSnapshot]) -> list[StoredSnapshot]:
    """The snapshots to read for the last one, the full one first; SnapshotError if one is missing."""
    by_id = {each.id: each for each in known}
    chain = [last]
    while (base := chain[0].base) is not None:
        if base not in by_id or by_id[base] in chain:
            raise SnapshotError(f"the snapshot {base}, on which {chain[0].name} is based, is not there")
        chain.insert(0, by_id[base])
    return chain


def _too_old(known: Sequence[StoredSnapshot], before: datetime) -> list[str]:
    """The names to delete: of all chains but the last few, and of those that ended too long ago."""
    by_id = {each.id: each for each in known}
    chains: defaultdict[str, list[StoredSnapshot]] = defaultdict(list)
    for each in known:
        chains[_root(each, by_id)].append(each)
    newest_first = sorted(chains.values(), key=lambda chain: chain[-1].at, reverse=True)
    return [
        each.name
        for nth, chain in enumerate(newest_first)
        if nth >= CHAINS_KEPT or (nth and chain[-1].at < before)
        for each in chain
    ]


def _root(each: StoredSnapshot, by_id: dict[str, StoredSnapshot]) -> str:
    """The id of the full snapshot at the bottom, or of the lowest one that is missing."""
    seen = {each.id}
    while each.base is not None and each.base in by_id and each.base not in seen:
        each = by_id[each.base]
        seen.add(each.id)
    return each.base or each.id


def _chosen(known: Iterable[StoredSnapshot], name: str) -> StoredSnapshot:
    wanted = name if name.startswith(FOLDER) else f"{FOLDER}{name}"
    found = [each for each in known if wanted == each.name or each.id.startswith(name)]
    if len(found) != 1:
        how_many = "no snapshot" if not found else "more than one snapshot"
        raise CopyRefused(f"{how_many} has the name or id {name!r}: maia patterns snapshots lists them")
    return found[0]


def _new(at: datetime, id_: str, base: str | None) -> StoredSnapshot:
    id_, base = id_[:_ID_DIGITS], base and base[:_ID_DIGITS]
    kind = "full" if base is None else f"on-{base}"
    return StoredSnapshot(f"{FOLDER}{at.astimezone(UTC):{_INSTANT}}-{id_}-{kind}.plpat", at, id_, base)


def _named(name: str) -> StoredSnapshot | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        at = datetime.strptime(match["at"], _INSTANT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return StoredSnapshot(name, at, match["id"], match["base"])


async def _remember(dao: PatternsDAO, at: datetime) -> None:
    """Keep in the database when the last snapshot was taken: listing a vault may be slow."""
    last = await dao.cursor(_CURSOR, _NEVER)
    # Whoever was faster has just taken one, too.
    with suppress(LeaseLost):
        await dao.move_cursor(_CURSOR, last, at.isoformat())


def _dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
