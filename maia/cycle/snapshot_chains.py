"""Snapshots in the vault, chained to full ones: how they are named, when one is due, and which are too old.

A snapshot's name says when it was taken, its id, and the id of the snapshot on which it is an increment:
`patterns/20261129T120000.000000Z-0123456789abcdef-full.plpat`, or `…-on-fedcba9876543210.plpat`. So the list
of the names is enough to find a chain, and two processes that take one at once don't hurt each other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.errors import LeaseLost
from maia.learning.column_file import SnapshotError

MOST_INCREMENTS: Final = 6
"""With a snapshot a day a chain is a week."""

_NEVER: Final = "never"
_ID_DIGITS: Final = 16
_INSTANT: Final = "%Y%m%dT%H%M%S.%fZ"
_NAME: Final = (
    rf"(?P<at>\d{{8}}T\d{{6}}\.\d{{6}}Z)-(?P<id>[0-9a-f]{{{_ID_DIGITS}}})-"
    rf"(?:full|on-(?P<base>[0-9a-f]{{{_ID_DIGITS}}}))"
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


Chain = Sequence[StoredSnapshot]
"""Snapshots from the full one to the last increment."""


@dataclass(frozen=True, slots=True)
class Series:
    """The snapshots of one thing: their folder in the vault, the ending of their names, and what keeps in the
    database when the last one was taken.
    """

    folder: str
    ending: str
    cursor: str

    async def stored(self, atlas: Atlas) -> list[StoredSnapshot]:
        """The snapshots in the vault, oldest first. Other objects in the folder are passed over."""
        found = (self._named(name) for name in await atlas.vault.list(self.folder))
        return sorted((each for each in found if each is not None), key=lambda each: (each.at, each.name))

    def new(
        self, now: datetime, id_: str, base: str | None, known: Sequence[StoredSnapshot]
    ) -> StoredSnapshot:
        """A snapshot to be stored beside those that are known, oldest first."""
        # Later than the last one, by whatever clock that was taken: it is found by its instant.
        at = max(now, known[-1].at + timedelta(microseconds=1)) if known else now
        id_, base = id_[:_ID_DIGITS], base and base[:_ID_DIGITS]
        kind = "full" if base is None else f"on-{base}"
        name = f"{self.folder}{at.astimezone(UTC):{_INSTANT}}-{id_}-{kind}.{self.ending}"
        return StoredSnapshot(name, at, id_, base)

    def chosen(self, known: Iterable[StoredSnapshot], name: str) -> list[StoredSnapshot]:
        """Those that somebody may mean: by the name, with or without the folder, or by how the id begins."""
        wanted = name if name.startswith(self.folder) else f"{self.folder}{name}"
        return [each for each in known if wanted == each.name or each.id.startswith(name)]

    async def is_due(self, atlas: Atlas, interval_h: float) -> bool | None:
        """Whether the interval has passed since the last one; None if there never was one."""
        last = await _dao(atlas).cursor(self.cursor, _NEVER)
        if last == _NEVER:
            return None
        passed = atlas.clock.now() - datetime.fromisoformat(last)
        # A last one that is yet to come was taken while the clock was ahead.
        return passed >= timedelta(hours=interval_h) or passed < timedelta(0)

    async def remember(self, atlas: Atlas, at: datetime) -> None:
        """Keep in the database when the last snapshot was taken: listing a vault may be slow."""
        last = await _dao(atlas).cursor(self.cursor, _NEVER)
        # Whoever was faster has just taken one, too.
        with suppress(LeaseLost):
            await _dao(atlas).move_cursor(self.cursor, last, at.isoformat())

    def _named(self, name: str) -> StoredSnapshot | None:
        match = re.fullmatch(rf"{self.folder}{_NAME}\.{self.ending}", name)
        if match is None:
            return None
        try:
            at = datetime.strptime(match["at"], _INSTANT).replace(tzinfo=UTC)
        except ValueError:
            return None
        return StoredSnapshot(name, at, match["id"], match["base"])


def chain_of(last: StoredSnapshot, known: Sequence[StoredSnapshot]) -> list[StoredSnapshot]:
    """The snapshots to read for the last one, the full one first; SnapshotError if one is missing."""
    by_id = {each.id: each for each in known}
    chain = [last]
    while (base := chain[0].base) is not None:
        if base not in by_id or by_id[base] in chain:
            raise SnapshotError(f"the snapshot {base}, on which {chain[0].name} is based, is not there")
        chain.insert(0, by_id[base])
    return chain


def too_old(
    known: Sequence[StoredSnapshot], most_chains: int, is_expired: Callable[[Chain], bool]
) -> list[str]:
    """The names to delete: of all chains but the last few, and of those but the last that have expired."""
    by_id = {each.id: each for each in known}
    chains: defaultdict[str, list[StoredSnapshot]] = defaultdict(list)
    for each in known:
        chains[_root(each, by_id)].append(each)
    newest_first = sorted(chains.values(), key=lambda chain: chain[-1].at, reverse=True)
    return [
        each.name
        for nth, chain in enumerate(newest_first)
        if nth >= most_chains or (nth and is_expired(chain))
        for each in chain
    ]


def _root(each: StoredSnapshot, by_id: dict[str, StoredSnapshot]) -> str:
    """The id of the full snapshot at the bottom, or of the lowest one that is missing."""
    seen = {each.id}
    while each.base is not None and each.base in by_id and each.base not in seen:
        each = by_id[each.base]
        seen.add(each.id)
    return each.base or each.id


def _dao(atlas: Atlas) -> PatternsDAO:
    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
