"""The comments view: suggestions and people's comments, and how they change while somebody follows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from atlas.adapters.comments import Comment
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

Change = Literal["open", "new", "changed", "closed", "withdrawn"]
"""`open` ones were there before; the system withdraws a suggestion that no longer holds."""

MOST: Final = 1_000
_RECONNECT_S: Final = 1.0
_BRIEF_CHARACTERS: Final = 120
_SOME: Final = 3
_LEFT_OUT: Final = frozenset({"as_of", "patterns"})
"""What `--json` alone shows: when the figures were read, and ids."""


@dataclass(frozen=True, slots=True)
class CommentChange:
    """A comment or suggestion, and what happened to it."""

    change: Change
    comment: Comment


async def follow(atlas: Atlas, category: str | None = None) -> AsyncGenerator[CommentChange, None]:
    """Yield what is open, the oldest first, and from then on what changes; close the generator when done.

    New figures in the evidence of a suggestion are no change. It goes on when the server restarts.
    """
    from atlas.adapters.comments import CommentsDAO, comments_changed
    from atlas.errors import DatabaseUnavailable

    dao = CommentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    known: dict[int, Comment] | None = None
    while True:
        try:
            async with aclosing(comments_changed(atlas.db)) as notices:
                async for _ in notices:
                    found = {each.id: each for each in await dao.comments(MOST, category=category)}
                    for each in _changes(known, found):
                        yield await _closed(dao, each)
                    known = found
        except DatabaseUnavailable as error:
            if not error.transient:
                raise
            logger.warning("following comments is interrupted, reconnecting: %s", error)
            await asyncio.sleep(_RECONNECT_S)


def _changes(known: Mapping[int, Comment] | None, found: Mapping[int, Comment]) -> Iterator[CommentChange]:
    if known is None:
        yield from (CommentChange("open", each) for each in _by_age(found.values()))
        return
    for id_ in sorted(known.keys() - found.keys()):
        yield CommentChange("withdrawn", known[id_])
    for each in _by_age(found.values()):
        before = known.get(each.id)
        if before is None:
            yield CommentChange("new", each)
        elif (before.text, before.command) != (each.text, each.command):
            yield CommentChange("changed", each)


def _by_age(comments: Any) -> list[Comment]:
    return sorted(comments, key=lambda each: (each.made_at, each.id))


async def _closed(dao: Any, gone: CommentChange) -> CommentChange:
    """The change as it is, or that somebody closed what seems to be withdrawn."""
    if gone.change != "withdrawn":
        return gone
    stored = await dao.comment(gone.comment.id)
    return gone if stored is None else CommentChange("closed", stored)


def brief(evidence: Mapping[str, Any]) -> str:
    """The first figures of a suggestion's evidence, such as days left 12.3, free gb 40."""
    figures = [
        (name, value)
        for name, value in evidence.items()
        if value not in (None, []) and not isinstance(value, Mapping) and name not in _LEFT_OUT
    ]
    told = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in figures[:_SOME])
    return told if len(told) <= _BRIEF_CHARACTERS else f"{told[: _BRIEF_CHARACTERS - 1]}…"


def _figure(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return _row(value)
    return str(value)


def _row(values: Sequence[object]) -> str:
    shown = [_figure(value) for value in values[:_SOME]]
    return f"[{', '.join(shown)}{', …' if len(values) > _SOME else ''}]"
