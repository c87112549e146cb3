"""The change feed of this site's graph: which atoms changed since a reader last looked, without gaps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Final, Self
from uuid import UUID

from atlas.adapters.dao import DAO
from atlas.adapters.graph import FIRST, BareAtom, Sources
from atlas.errors import DataRefused, UnknownCursor

_CURSOR: Final = re.compile(
    r"(?P<database>[0-9a-f]{16})-(?P<xid>[0-9a-f]{1,15})-(?P<handle>[0-9a-f]{32})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class AtomChange(BareAtom):
    """An atom as it is now, that changed; `cursor` is the place after it.

    Of one that is gone, `gone_at` says when, and neither `name` nor `outgoing` what it was.
    """

    gone_at: datetime | None
    cursor: str
    place: tuple[int, UUID]


@dataclass(frozen=True, slots=True)
class GraphChanges:
    """Part of the feed: `cursor` is where to read on, at once if there may be `more`.

    `waiting` says that further changes can be read as soon as transactions end that began earlier.
    """

    items: Sequence[AtomChange]
    cursor: str
    more: bool
    waiting: bool


@dataclass(frozen=True, slots=True)
class _Place:
    database: str
    xid: int
    handle: UUID = FIRST

    def __str__(self) -> str:
        return f"{self.database}-{self.xid:x}-{self.handle.hex}"

    @classmethod
    def parse(cls, cursor: str) -> Self:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise DataRefused("this is no cursor of the graph's change feed: send one as you received it")
        return cls(found["database"], int(found["xid"], 16), UUID(found["handle"]))


def order(cursor: str) -> tuple[int, UUID]:
    """By this, cursors of one database are in the order of the feed; DataRefused if it is no cursor."""
    place = _Place.parse(cursor)
    return place.xid, place.handle


class GraphChangesDAO(DAO):
    """Reads which atoms changed, each once, in the order of the transactions that changed them last.

    A change is read once all transactions that began to write before it have ended. Cursors hold only in
    their own database, and not in a restored copy of it.
    """

    async def cursor(self) -> str:
        """The place after everything that can be read now."""
        place, _ = await self._horizon()
        return str(place)

    async def beginning(self) -> str:
        """The place before everything."""
        place, _ = await self._horizon()
        return str(_Place(place.database, 0))

    async def since(self, cursor: str, limit: int) -> GraphChanges:
        """At most `limit` atoms that changed after a cursor.

        UnknownCursor if it is of another database, or of before this one was restored; DataRefused if it is
        none.
        """
        begin = _Place.parse(cursor)
        end, is_waiting = await self._horizon()
        if begin.database != end.database or begin.xid > end.xid:
            raise UnknownCursor
        rows = await self._executor.fetch("graph_changes.since", begin.xid, begin.handle, end.xid, limit)
        items = []
        for row in map(dict, rows):
            place = _Place(end.database, row.pop("xid"), row["handle"])
            row["sources"] = Sources(row["sources"])
            items.append(AtomChange(**row, cursor=str(place), place=(place.xid, place.handle)))
        more = len(items) == limit
        return GraphChanges(items, items[-1].cursor if more else str(end), more, is_waiting)

    async def _horizon(self) -> tuple[_Place, bool]:
        row = await self._executor.fetchrow("graph_changes.horizon")
        assert row is not None
        database = blake2b(row["identity"].encode(), digest_size=8).hexdigest()
        return _Place(database, row["horizon"]), row["is_waiting"]
