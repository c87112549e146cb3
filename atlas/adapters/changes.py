"""The change feed of patterns: what changed since a reader last looked, without gaps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, Literal, Self

from atlas.adapters.claims import ClaimsDAO
from atlas.adapters.dao import DAO
from atlas.adapters.patterns import StoredPattern
from atlas.errors import DataRefused, UnknownCursor

CHANNEL: Final = "patterns"
"""PostgreSQL notifies it after every statement that may have changed a pattern or its evidence."""

ChangeKind = Literal["pattern", "evidence", "forgotten"]

_CURSOR: Final = re.compile(
    r"(?P<database>[0-9a-f]{16})-(?P<base>[0-9a-f]{1,15})-(?P<xid>[0-9a-f]{1,15})-(?P<id>(?:[0-9a-f]{32})?)",
    re.ASCII,
)
_MARKED_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class PatternChange:
    """A pattern as it is now, that changed; `cursor` is the place after it.

    The kind is `pattern` if it is new, its text changed, it was pinned or unpinned, or old evidence of it was
    deleted; `evidence` if only evidence was added; and `forgotten` if it is known no more.
    """

    cursor: str
    kind: ChangeKind
    pattern: StoredPattern


@dataclass(frozen=True, slots=True)
class BriefPattern:
    """What of a pattern is needed to match and advise, with the sums of its evidence everywhere."""

    id: str
    type: str
    statement: str
    conditions: Sequence[Mapping[str, Any]]
    action: str | None
    cost: Any
    """What one try of the action costs, if its data say so."""
    pinned: bool
    pos: int
    neg: int
    sum_reward: float
    last_seen: datetime | None

    @classmethod
    def of(cls, stored: StoredPattern) -> Self:
        """The same of a whole pattern."""
        return cls(
            stored.id, stored.type, stored.statement, stored.conditions, stored.action,
            stored.data.get("cost"), stored.pinned, stored.pos, stored.neg, stored.sum_reward,
            stored.last_seen,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Changes:
    """Part of the feed: `cursor` is where to read on, at once if there may be `more`."""

    items: Sequence[PatternChange]
    cursor: str
    more: bool
    waiting: bool
    """Whether further changes can be read as soon as transactions end that began earlier."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Up to where the feed was read: a transaction, and the id of a pattern within it.

    A new text may have been passed over because the same pattern also got evidence later, which must then
    tell of the text, too. If so, `base` is a transaction before that; or else it equals `xid`.
    """

    database: str
    base: int
    xid: int
    id: str = ""

    def then(self, xid: int, id_: str, *, has_passed_over: bool) -> Self:
        """A later place."""
        is_exact = self.base == self.xid and not has_passed_over
        return replace(self, base=xid if is_exact else min(self.base, xid - 1), xid=xid, id=id_)

    def __str__(self) -> str:
        return f"{self.database}-{self.base:x}-{self.xid:x}-{self.id}"

    @classmethod
    def parse(cls, cursor: str) -> Self:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise DataRefused("this is no cursor of the change feed: send one as you received it")
        return cls(found["database"], int(found["base"], 16), int(found["xid"], 16), found["id"])


def order(cursor: str) -> tuple[int, str]:
    """By this, cursors of one database are in the order of the feed; DataRefused if it is no cursor."""
    place = _Place.parse(cursor)
    return place.xid, place.id


@dataclass(frozen=True, slots=True)
class _Horizon:
    """Which database this is, and the first transaction of which it isn't sure that it has ended."""

    database: str
    xid: int
    is_ours: bool
    identity: str
    is_waiting: bool
    frontier: int
    """The first transaction that has not begun."""

    @property
    def end(self) -> _Place:
        """The place after everything that can be read now."""
        return _Place(self.database, self.xid, self.xid)

    def check(self, place: _Place) -> None:
        if place.database != self.database or place.xid > self.xid:
            raise UnknownCursor


class ChangesDAO(DAO):
    """Reads which patterns changed, in the order of the transactions that changed them.

    A change is read once all transactions that began to write before it have ended, so none can still appear
    before a cursor. Cursors are texts to be handed back as they are; they hold only in their own database,
    and not in a restored copy of it.
    """

    async def cursor(self) -> str:
        """The place after everything that can be read now."""
        return str((await self._horizon()).end)

    async def frontier(self) -> str:
        """The place after everything that is there now, even if it can't be read yet."""
        horizon = await self._horizon()
        return str(_Place(horizon.database, horizon.frontier, horizon.frontier))

    async def beginning(self) -> str:
        """The place before everything: from there on, all patterns are read."""
        return str(_Place((await self._horizon()).database, 0, 0))

    async def page(self, after: str, limit: int) -> list[BriefPattern]:
        """The patterns that are not forgotten, in the order of their ids, after one of them."""
        rows = await self._executor.fetch("changes.page", after, limit)
        # By position, as the statement names the columns in the order of the fields.
        return [BriefPattern(*row) for row in rows]

    async def patterns_since(self, cursor: str, limit: int) -> Changes:
        """The patterns, forgotten ones too, that changed after a cursor: each once, at its last change.

        At most `limit` changes are read, of which several may be of one pattern. UnknownCursor if the cursor
        is of another database, or of before this one was restored; DataRefused if it is none.
        """
        place, horizon = _Place.parse(cursor), await self._horizon()
        horizon.check(place)
        rows = await self._executor.fetch(
            "changes.since", place.xid, place.id, horizon.xid, limit, place.base
        )
        found = [dict(row) for row in rows if row["id"] is not None]
        read: int = rows[0]["read"] if rows else 0
        has_passed_over = len(found) < read
        items = [_change(place, row, has_passed_over=has_passed_over) for row in found]
        if read < limit:
            return Changes(items, str(horizon.end), more=False, waiting=horizon.is_waiting)
        end = place.then(rows[0]["last_xid"], rows[0]["last_id"], has_passed_over=has_passed_over)
        return Changes(items, str(end), more=True, waiting=horizon.is_waiting)

    async def settle(self) -> int:
        """Make the feed readable in a copy of a database, such as one that was restored from a backup.

        There, the changes are numbered as in the original, whose numbers may be far ahead: all patterns,
        and all atoms of the graph, count as changed now. Returns in how many batches of patterns, 0 where
        nothing was to be done.
        """
        if (await self._horizon()).is_ours:
            return 0
        last, batches = "", 0
        while (end := await self._executor.fetchval("changes.mark", last, _MARKED_AT_ONCE)) is not None:
            last, batches = end, batches + 1
        await ClaimsDAO(self._executor, clock=self._clock, settings=self._settings).mark()
        await self._executor.execute("changes.settle", (await self._horizon()).identity)
        return batches

    async def _horizon(self) -> _Horizon:
        row = await self._executor.fetchrow("changes.horizon")
        assert row is not None
        identity: str = row["identity"]
        database = blake2b(identity.encode(), digest_size=8).hexdigest()
        return _Horizon(
            database, row["horizon"], row["is_ours"], identity, row["is_waiting"], row["frontier"]
        )


def _change(begin: _Place, row: dict[str, Any], *, has_passed_over: bool) -> PatternChange:
    place = begin.then(row.pop("place"), row["id"], has_passed_over=has_passed_over)
    has_new_text, is_forgotten = row.pop("has_new_text"), row.pop("forgotten_at") is not None
    for name in ("last_xid", "last_id", "read"):
        del row[name]
    kind: ChangeKind = "forgotten" if is_forgotten else "pattern" if has_new_text else "evidence"
    return PatternChange(str(place), kind, StoredPattern(**row))
