"""The watches table: videos and channels that people asked to follow, and the zone they are pinned to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from atlas.adapters.dao import DAO
from atlas.adapters.uploads import UploadsDAO
from atlas.db import Executor
from atlas.errors import StatementTimeout, TransactionConflict
from atlas.queries import clean_text

_ByKind: TypeAlias = Mapping["WatchKind", Sequence[str]]
_Change: TypeAlias = Callable[[Executor], Awaitable[int]]

_PIN_TIMEOUT_S = 15
_FIRST_PAUSE_H, _LONGEST_PAUSE_H = 1.0, 168.0


class WatchKind(StrEnum):
    """What a watch follows."""

    VIDEO = "video"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True)
class Watch:
    """A watched video or channel, by its id; it need not be stored yet."""

    kind: WatchKind
    id: str


@dataclass(frozen=True, slots=True)
class WatchLine:
    """A watch and its current state; `videos` counts a channel's live ones.

    `known` becomes true when the video, or the channel's title, is stored. Until then a video has been
    requested from the API `asks` times, last at `asked_at`.
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
class WatchesChanged:
    """How many watches a change affected, and how many videos' zones it pinned or released."""

    watches: int
    videos_pinned: int


class WatchesDAO(DAO):
    """Adds, removes and lists watches.

    A pinned video keeps its zone regardless of age; its own watch takes precedence over its channel's. Videos
    that are discovered later are pinned when they are stored.
    """

    async def kinds_of(self, ids: Sequence[str]) -> dict[str, WatchKind]:
        """The kind of each id that is stored or watched."""
        rows = await self._executor.fetch("watches.kinds_of", [clean_text(id_) for id_ in ids])
        return {row["id"]: WatchKind(row["kind"]) for row in rows}

    async def add(self, watches: Iterable[Watch], zone: int | None = None) -> WatchesChanged:
        """Watch all of them, pinned to `zone`; None keeps existing pins.

        A channel that isn't stored gets a row and a clock at once, so that the tracker fetches it, and its
        uploads are looked at often. A video gets a row and a clock once the tracker has fetched it, see
        `claim_unknown_videos`.
        """
        wanted = _by_kind(watches)

        async def store(executor: Executor) -> int:
            kinds, ids = _columns(wanted)
            added = await executor.execute("watches.add", kinds, ids, zone, self._clock.now())
            now = self._clock.now()
            await executor.execute("watches.meet_channels", wanted[WatchKind.CHANNEL], now)
            await executor.execute("watches.revive_channels", wanted[WatchKind.CHANNEL], now)
            await UploadsDAO.watch(executor, wanted[WatchKind.CHANNEL], True, now)
            await executor.execute("watches.revive_videos", wanted[WatchKind.VIDEO], now)
            return added

        return await self._change(wanted, store)

    async def remove(self, watches: Iterable[Watch]) -> WatchesChanged:
        """Stop watching them; from their next sample on, their videos' zones depend on age again."""
        wanted = _by_kind(watches)

        async def delete(executor: Executor) -> int:
            await UploadsDAO.watch(executor, wanted[WatchKind.CHANNEL], False, self._clock.now())
            return await executor.execute("watches.remove", *_columns(wanted))

        return await self._change(wanted, delete)

    async def watches(self) -> list[WatchLine]:
        """All watches, oldest first."""
        return [
            WatchLine(**(dict(row) | {"kind": WatchKind(row["kind"])}))
            for row in await self._executor.fetch("watches.list")
        ]

    async def claim_unknown_videos(self, most: int) -> list[str]:
        """Ids of watched videos that aren't stored and are due to be requested from the API by the caller.

        Returning an id counts as a request. A video that the API doesn't know is due again after an hour,
        then after four times as long each time, up to a week. Ingesting a video also applies its pin.
        """
        rows = await self._executor.fetch(
            "watches.claim_unknown", most, self._clock.now(), _FIRST_PAUSE_H, _LONGEST_PAUSE_H
        )
        return [row["id"] for row in rows]

    async def _change(self, wanted: _ByKind, change: _Change) -> WatchesChanged:
        """Change watches and pins in one transaction, retrying while a tracker holds one of the clocks."""
        import stamina

        tracker = self._settings.tracker
        intervals_h = (tracker.hot_interval_h, tracker.warm_interval_h, tracker.cold_interval_h)
        async for attempt in stamina.retry_context(
            on=(StatementTimeout, TransactionConflict),
            attempts=None,
            timeout=_PIN_TIMEOUT_S,
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
        return WatchesChanged(changed, pinned)


def _by_kind(watches: Iterable[Watch]) -> _ByKind:
    """The ids of each kind, without duplicates and sorted, the order in which all statements lock them."""
    ids: dict[WatchKind, set[str]] = {kind: set() for kind in WatchKind}
    for watch in watches:
        ids[watch.kind].add(watch.id)
    return {kind: sorted(members) for kind, members in ids.items()}


def _columns(wanted: _ByKind) -> tuple[list[str], list[str]]:
    pairs = [(kind.value, id_) for kind, ids in wanted.items() for id_ in ids]
    return [kind for kind, _ in pairs], [id_ for _, id_ in pairs]
