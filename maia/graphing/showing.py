"""Showing tags as most of their first few carriers spell them, as the graph is fed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from uuid import UUID

from atlas.adapters.graph_feeding import GraphFeedDAO
from atlas.tags import spellings
from maia.graphing.facts import shown_spelling
from maia.graphing.hashing import HashedVideos


async def show_carried(dao: GraphFeedDAO, videos: HashedVideos, lost: Collection[UUID]) -> None:
    """Show the tags of videos, which were just taken over, and tags that lost a carrier.

    A tag that is shown as all of these videos spell it stays so: among its first carriers that spelling gains
    if one of them is, and no other does.
    """
    handles = await asyncio.to_thread(videos.tags)
    shown = await dao.shown([*handles.values()]) if handles else {}
    doubtful = await asyncio.to_thread(_spelled_otherwise, videos, handles, shown)
    if doubtful or lost:
        await show(dao, doubtful, videos.spelled_by_video(), lost, shown)


def _spelled_otherwise(
    videos: HashedVideos, handles: Mapping[str, UUID], shown: Mapping[UUID, str]
) -> set[UUID]:
    """The tags that one of the videos spells otherwise than they are shown."""
    now = {tag: shown.get(handle, tag) for tag, handle in handles.items()}
    spelled = chain.from_iterable(tags.items() for tags in videos.carried)
    return {handles[tag] for tag, spelling in spelled if spelling != now[tag]}


async def show(
    dao: GraphFeedDAO,
    tags: Iterable[UUID],
    carried: Mapping[UUID, Mapping[str, str]],
    lost: Collection[UUID] | None = None,
    shown: Mapping[UUID, str] | None = None,
) -> None:
    """Show tags as most of their first carriers spell them.

    `carried` are spellings that are known already. If `lost` is given, only tags are looked at that lost a
    carrier, or that have among the first one of these videos that doesn't spell it as it is `shown`.
    """
    carriers = await dao.carriers(sorted({*tags, *(lost or ())}))
    if lost is not None:
        now = shown or {}
        carriers = [
            each
            for each in carriers
            if each.tag in lost
            or any(
                carried[video].get(each.name) not in (None, now.get(each.tag, each.name))
                for video in each.videos
                if video in carried
            )
        ]
    others = {video for each in carriers for video in each.videos if video not in carried}
    spelled = dict(carried)
    for video, raw in (await dao.tags_of(sorted(others))).items() if others else ():
        spelled[video] = spellings(raw)
    await dao.show(
        {
            each.tag: shown_spelling(
                each.name,
                [spelled[video][each.name] for video in each.videos if each.name in spelled.get(video, {})],
            )
            for each in carriers
        }
    )
