"""The search view: videos by title or tag, and channels by title."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, Literal

from maia.views.words import DERIVED, channel_url, video_url

if TYPE_CHECKING:
    from atlas.adapters.search import FoundChannel, FoundVideo
    from atlas.composition import Atlas

Field = Literal["title", "tag", "channel"]

_MOST_NEAREST: Final = 50
_WORD: Final = re.compile(r"\w+")
_LIKE: Final = 0.6

UNINDEXED: Final = (
    "this database has no trigram indexes, so a search reads every title, which takes long: let an "
    "administrator add the extension pg_trgm, as docs/service.md says"
)


@dataclass(frozen=True, slots=True)
class Match:
    """What was found: a video by its title or a tag, or a channel. `velocity` is in views per hour."""

    kind: Literal["video", "channel"]
    matched: Field
    id: str
    title: str | None
    channel_id: str
    channel_title: str | None
    published_at: datetime | None
    views: int | None
    velocity: float | None
    subscribers: int | None
    url: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was found: channels first, largest first, then videos, fastest first.

    `total` counts what matches, as far as it was ranked: at most 2,000 channels, and as many videos by title
    and by tag. `note` says why a search may be slow.

    Where nothing matches, `nearest` is true and the matches are those most like what was asked for, at most
    50; `did_you_mean` is then what was perhaps meant.
    """

    now: datetime
    attribution: str
    q: str
    total: int
    indexed: bool
    note: str | None
    nearest: bool
    did_you_mean: str | None
    matches: tuple[Match, ...]


async def search(atlas: Atlas, text: str, limit: int, offset: int = 0, only: Field | None = None) -> Found:
    """What contains all words of a text in its title, or has the text as a tag, in any case."""
    from atlas.adapters.search import FoundChannels, FoundVideos, SearchDAO

    dao = SearchDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    indexed = await dao.is_indexed()
    channels, videos = FoundChannels((), 0), FoundVideos((), 0)
    if only in (None, "channel"):
        channels = await dao.channels(text, limit, offset)
        if not channels.channels and offset:
            channels = FoundChannels((), (await dao.channels(text, 1)).total)
    if only != "channel":
        left, further = limit - len(channels.channels), max(offset - channels.total, 0)
        by = {"by_title": only != "tag", "by_tag": only != "title"}
        videos = await dao.videos(text, left, further, **by)
        if not videos.videos:
            videos = FoundVideos((), (await dao.videos(text, 1, **by)).total)
    return Found(
        now=atlas.clock.now(),
        attribution=DERIVED,
        q=text,
        total=channels.total + videos.total,
        indexed=indexed,
        note=None if indexed else UNINDEXED,
        nearest=False,
        did_you_mean=None,
        matches=_matches(channels.channels, videos.videos),
    )


async def nearest(atlas: Atlas, text: str, limit: int, only: Field | None = None) -> Found:
    """What is most like a text that nothing contains, for those who misspelt it; by titles, not by tags."""
    from atlas.adapters.search import SearchDAO, words_of

    dao, most = SearchDAO(atlas.db, clock=atlas.clock, settings=atlas.settings), min(limit, _MOST_NEAREST)
    indexed = await dao.is_indexed()
    channels: Sequence[FoundChannel] = ()
    videos: Sequence[FoundVideo] = ()
    if indexed and only in (None, "channel"):
        channels = await dao.nearest_channels(text, most)
    if indexed and only in (None, "title"):
        videos = await dao.nearest_videos(text, most - len(channels))
    titles = [*(each.title for each in channels), *(each.title for each in videos)]
    return Found(
        now=atlas.clock.now(),
        attribution=DERIVED,
        q=text,
        total=len(channels) + len(videos),
        indexed=indexed,
        note=None if indexed else UNINDEXED,
        nearest=True,
        did_you_mean=meant(text, words_of(text), [title for title in titles if title]),
        matches=_matches(channels, videos),
    )


def meant(text: str, words: Iterable[str], titles: Iterable[str]) -> str | None:
    """The text with each of its words replaced by the likest of the titles; None if that changes nothing."""
    known = {word for title in titles for word in _WORD.findall(title.lower())}
    corrected = text.lower()
    for word in words:
        likest = get_close_matches(word, known, n=1, cutoff=_LIKE)
        if word not in known and likest:
            corrected = re.sub(rf"\b{re.escape(word)}\b", likest[0], corrected)
    return None if corrected == text.lower() else corrected


def _matches(channels: Iterable[FoundChannel], videos: Iterable[FoundVideo]) -> tuple[Match, ...]:
    return (
        *(
            Match(
                "channel", "channel", each.id, each.title, each.id, each.title, None, each.views, None,
                each.subscribers, channel_url(each.id),
            )
            for each in channels
        ),
        *(
            Match(
                "video", "title" if each.is_by_title else "tag", each.id, each.title, each.channel_id,
                each.channel_title, each.published_at, each.views, each.velocity, None, video_url(each.id),
            )
            for each in videos
        ),
    )  # fmt: skip
