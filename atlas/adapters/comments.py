"""Comments: what the system suggests and what people write, in one time-stamped list with one kind of id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from atlas.adapters.dao import DAO
from atlas.categories import Category
from atlas.errors import DataRefused
from atlas.queries import clean_text

if TYPE_CHECKING:
    from atlas.db import Database

LONGEST_TEXT: Final = 2_000
_LONGEST_NAME: Final = 100
_CHANNEL: Final = "comments"


@dataclass(frozen=True, slots=True)
class Comment:
    """A suggestion of the system, or a comment that `author` wrote; `updated_at` is when it last changed."""

    id: int
    key: str
    category: str
    text: str
    command: str | None
    evidence: Mapping[str, Any]
    made_at: datetime
    updated_at: datetime
    author: str | None
    closed_at: datetime | None
    closed_by: str | None
    reason: str | None


class CommentsDAO(DAO):
    """Lists, adds and closes comments; `PatternsDAO` makes and withdraws the system's suggestions."""

    async def comments(
        self, most: int, *, also_closed: bool = False, category: str | None = None
    ) -> list[Comment]:
        """The last comments and suggestions, newest first."""
        rows = await self._executor.fetch("comments.comments", most, also_closed, category)
        return [Comment(**row) for row in rows]

    async def comment(self, id_: int) -> Comment | None:
        """The comment or suggestion with that id."""
        row = await self._executor.fetchrow("comments.of_id", id_)
        return None if row is None else Comment(**row)

    async def on_patterns(self, most: int, pattern_id: str | None = None) -> list[Comment]:
        """The last suggestions that rest on patterns, or on one; newest first, closed ones too."""
        wanted = None if pattern_id is None else clean_text(pattern_id)
        rows = await self._executor.fetch("comments.on_patterns", wanted, most)
        return [Comment(**row) for row in rows]

    async def add(self, text: str, category: Category, author: str) -> int:
        """Add a person's comment; returns its id. DataRefused if it is empty or too long."""
        cleaned = clean_text(text).strip()
        if not cleaned or len(cleaned) > LONGEST_TEXT:
            raise DataRefused(f"a comment has 1 to {LONGEST_TEXT:,} characters, not {len(cleaned):,}")
        name = clean_text(author).strip()[:_LONGEST_NAME] or "somebody"
        key = f"comment {uuid4()}"
        id_: int = await self._executor.fetchval(
            "comments.add", key, category, cleaned, name, self._clock.now()
        )
        return id_

    async def close(self, id_: int, by: str, reason: str | None = None) -> bool:
        """Close a comment or suggestion on behalf of a person; False if there is none that is open."""
        why = None if reason is None else clean_text(reason).strip()[:LONGEST_TEXT] or None
        name = clean_text(by).strip()[:_LONGEST_NAME] or "somebody"
        return bool(await self._executor.execute("comments.close", id_, self._clock.now(), name, why))


async def comments_changed(db: Database) -> AsyncGenerator[None, None]:
    """Yield at once, and whenever a comment or suggestion changed; ends when the connection breaks."""
    async with aclosing(db.listen(_CHANNEL)) as notices:
        async for _ in notices:
            yield None
