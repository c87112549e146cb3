"""The breakouts view: videos that grew far more than their age and history suggested."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from maia.views.words import DERIVED, video_url

if TYPE_CHECKING:
    from atlas.adapters.board import BoardDAO
    from atlas.composition import Atlas
    from atlas.events import Event

KIND: Final = "tracker.breakout"


@dataclass(frozen=True, slots=True)
class BreakoutRow:
    """A breakout. `cursor` continues after it; `times_expected` is None if the expectation was zero."""

    cursor: int
    at: datetime
    video_id: str
    title: str | None
    channel_id: str | None
    channel_title: str | None
    age_h: float | None
    views: int | None
    views_per_hour: float | None
    times_expected: float | None
    viral_score: float | None
    url: str


@dataclass(frozen=True, slots=True)
class Breakouts:
    """Breakouts since an instant, newest first; following them continues at `cursor`."""

    now: datetime
    since: datetime
    cursor: int
    attribution: str
    breakouts: tuple[BreakoutRow, ...]


async def breakouts(atlas: Atlas, since: datetime, limit: int = 100) -> Breakouts:
    """The last `limit` breakouts reported since an instant."""
    from atlas.adapters.board import BoardDAO

    cursor = await atlas.events.cursor()
    dao = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    events = [event for event in await atlas.events.latest(limit, kinds=[KIND]) if event.at >= since]
    rows = await rows_of(dao, [event for event in events if event.id <= cursor])
    return Breakouts(atlas.clock.now(), since, cursor, DERIVED, tuple(rows))


@dataclass(frozen=True, slots=True)
class BreakoutPage:
    """Some breakouts, newest first. Following them continues at `cursor`, and older ones at `older`."""

    now: datetime
    attribution: str
    cursor: int
    older: int | None
    breakouts: tuple[BreakoutRow, ...]


async def page(atlas: Atlas, limit: int, before: int | None = None) -> BreakoutPage:
    """The last `limit` breakouts, or the last before one with that cursor."""
    from atlas.adapters.board import BoardDAO

    cursor = await atlas.events.cursor()
    events = await atlas.events.latest(limit, kinds=[KIND], before=before)
    rows = await rows_of(BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings), events)
    older = events[-1].id if len(events) == limit else None
    return BreakoutPage(atlas.clock.now(), DERIVED, cursor, older, tuple(rows))


async def follow(atlas: Atlas, cursor: int | None = None) -> AsyncGenerator[BreakoutRow, None]:
    """Yield breakouts after a cursor as they are reported, for ever; close the generator when done."""
    from atlas.adapters.board import BoardDAO

    dao = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    async with aclosing(atlas.events.follow(cursor, kinds=[KIND])) as events:
        async for event in events:
            [row] = await rows_of(dao, [event])
            yield row


async def rows_of(dao: BoardDAO, events: Sequence[Event]) -> list[BreakoutRow]:
    """The events, with the current titles and channels of their videos."""
    names = await dao.names_of({str(event.payload.get("video_id")) for event in events})
    return [_row(event, names.get(str(event.payload.get("video_id")))) for event in events]


def _row(event: Event, named: Any) -> BreakoutRow:
    payload, video_id = event.payload, str(event.payload.get("video_id"))
    return BreakoutRow(
        cursor=event.id,
        at=_moment(payload.get("at")) or event.at,
        video_id=video_id,
        title=named and named.title,
        channel_id=named and named.channel_id,
        channel_title=named and named.channel_title,
        age_h=payload.get("age_h"),
        views=payload.get("views"),
        views_per_hour=payload.get("views_per_hour"),
        times_expected=payload.get("times_expected"),
        viral_score=payload.get("viral_score"),
        url=video_url(video_id),
    )


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
