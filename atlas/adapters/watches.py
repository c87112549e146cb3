"""What people watch: videos and channels, known or not yet, and the zone that they are pinned to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from atlas.adapters.dao import DAO, clean_text
from atlas.db import Executor
from atlas.errors import StatementTimeout, TransactionConflict

_ByKind: TypeAlias = Mapping["WatchKind", Sequence[str]]
_Change: TypeAlias = Callable[[Executor], Awaitable[int]]

_PIN_TRIES_S = 15
_FIRST_PAUSE_H, _LONGEST_PAUSE_H = 1.0, 168.0


class WatchKind(StrEnum):
    """What is watched."""

    VIDEO = "video"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True)
class Watch:
    """A video or a channel by its id; it need not be stored."""

    kind: WatchKind
    id: str


@dataclass(frozen=True, slots=True)
class WatchLine:
    """A watch and how it stands; `videos` counts a channel's live ones.

    `known` is false until a video is stored, or a channel's title is. A video that is not was asked for
    `asks` times, last at `asked_at`.
    """

    kind: WatchKind
    id: str
    zone: int | None
    created_at: datetime
    title: str | None
    known: bool
    status: str | None
    videos: int | None
    last_sampled_at: datetime | None
    next_due_at: datetime | None
    asked_at: datetime | None
    asks: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What a change of the watches did: to how many of them, and to how many videos' clocks."""

    watches: int
    videos_pinned: int


class WatchesDAO(DAO):
    """The door to what is watched.

    A pinned video keeps its zone whatever its age; a video's own watch goes before its channel's. Videos
    that are found later are pinned as they are stored.
    """

    async def kinds_of(self, ids: Sequence[str]) -> dict[str, WatchKind]:
        """What those of the ids are that are stored or watched."""
        rows = await self._executor.fetch("watches.kinds_of", [clean_text(id_) for id_ in ids])
        return {row["id"]: WatchKind(row["kind"]) for row in rows}

    async def add(self, watches: Iterable[Watch], zone: int | None = None) -> Watched:
        """Watch all of them, pinned to that zone; None lets them go by their age, or their channel's watch.

        A channel that nobody has met gets a row and a clock, for the tracker to fetch; a video does when
        the tracker has asked for it, see `claim_unknown_videos`.
        """
        wanted = _by_kind(watches)

        async def store(executor: Executor) -> int:
            kinds, ids = _columns(wanted)
            added = await executor.execute("watches.add", kinds, ids, zone, self._clock.now())
            await executor.execute("watches.meet_channels", wanted[WatchKind.CHANNEL], self._clock.now())
            return added

        return await self._change(wanted, store)

    async def remove(self, watches: Iterable[Watch]) -> Watched:
        """Watch them no more; their videos go by their age again from their next sample on."""
        wanted = _by_kind(watches)
        return await self._change(
            wanted, lambda executor: executor.execute("watches.remove", *_columns(wanted))
        )

    async def watches(self) -> list[WatchLine]:
        """Every watch, the oldest first."""
        return [
            WatchLine(**(dict(row) | {"kind": WatchKind(row["kind"])}))
            for row in await self._executor.fetch("watches.list")
        ]

    async def claim_unknown_videos(self, most: int) -> list[str]:
        """Ids of watched videos that are not stored and whose turn it is to be asked for; the caller asks.

        Taking them counts as asking: what the API doesn't know either has its next turn in an hour, then
        after four times as long each time, up to a week. Who ingests what it does know, pins it as well.
        """
        rows = await self._executor.fetch(
            "watches.claim_unknown", most, self._clock.now(), _FIRST_PAUSE_H, _LONGEST_PAUSE_H
        )
        return [row["id"] for row in rows]

    async def _change(self, wanted: _ByKind, change: _Change) -> Watched:
        """Change watches and pins together; tried again while a tracker writes one of the clocks."""
        import stamina

        tracker = self._settings.tracker
        intervals_h = (tracker.hot_interval_h, tracker.warm_interval_h, tracker.cold_interval_h)
        async for attempt in stamina.retry_context(
            on=(StatementTimeout, TransactionConflict),
            attempts=None,
            timeout=_PIN_TRIES_S,
            wait_initial=0.05,
            wait_max=1,
        ):
            with attempt:
                async with self._executor.transaction() as executor:
                    changed = await change(executor)
                    pinned = await executor.execute(
                        "watches.pin",
                        wanted[WatchKind.VIDEO],
                        wanted[WatchKind.CHANNEL],
                        self._clock.now(),
                        intervals_h,
                    )
        return Watched(changed, pinned)


def _by_kind(watches: Iterable[Watch]) -> _ByKind:
    """The ids of each kind, each once and in order, as every statement locks them."""
    ids: dict[WatchKind, set[str]] = {kind: set() for kind in WatchKind}
    for watch in watches:
        ids[watch.kind].add(watch.id)
    return {kind: sorted(members) for kind, members in ids.items()}


def _columns(wanted: _ByKind) -> tuple[list[str], list[str]]:
    pairs = [(kind.value, id_) for kind, ids in wanted.items() for id_ in ids]
    return [kind for kind, _ in pairs], [id_ for _, id_ in pairs]
