"""Looks up channel ids: by title in the database, by handle or user name through YouTube."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maia.errors import MaiaError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.composition import Atlas
    from maia.commands.arguments import Named
    from maia.youtube.client import YouTube
    from maia.youtube.resources import Channel


class Unresolved(MaiaError):
    """No channel, or more than one, has that name."""


async def channel_id_of(atlas: Atlas, named: Named) -> str:
    """The id of the channel that is meant; Unresolved if none or several are. A handle costs a unit."""
    if named.kind == "channel":
        return named.id
    if named.kind is not None:
        [channel] = await resolve(atlas, [named])
        return channel.id
    from atlas.adapters.board import BoardDAO

    found = await BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).channels_named(named.id)
    if not found:
        raise Unresolved(
            f"no stored channel has the id or title {named.id!r}: give its id (UC…), its @handle or its "
            "address, or add it with maia watch add"
        )
    if len(found) > 1:
        raise Unresolved(f"{len(found)} channels are called {named.id!r}: give one's id: {', '.join(found)}")
    return found[0]


async def resolve(atlas: Atlas, names: Iterable[Named]) -> list[Named]:
    """The names in the same order, with handles and user names replaced by channel ids (a unit each)."""
    wanted = list(names)
    unresolved = [each for each in wanted if each.kind in ("handle", "user")]
    if not unresolved:
        return wanted
    from atlas.errors import EmptyKeyRing
    from atlas.keyring import KeyRing
    from maia.youtube.client import YouTube

    try:
        keys = KeyRing("tracking", atlas=atlas)
    except EmptyKeyRing as error:
        raise Unresolved(
            f"looking up {unresolved[0].id} needs an API key: set YOUTUBE_API_KEY_POOL_JSON, or give the "
            "channel's id (UC…)"
        ) from error
    async with YouTube.open(atlas.settings.youtube, keys, clock=atlas.clock) as youtube:
        found = {each: await _ask(youtube, each) for each in dict.fromkeys(unresolved)}
    return [found.get(each, each) for each in wanted]


async def _ask(youtube: YouTube, named: Named) -> Named:
    from maia.commands.arguments import Named

    channel: Channel | None
    if named.kind == "handle":
        channel = await youtube.channel_by_handle(named.id)
        noun = "handle"
    else:
        channel = await youtube.channel_by_username(named.id)
        noun = "user name"
    if channel is None:
        raise Unresolved(
            f"YouTube has no channel with the {noun} {named.id}: on the channel's page choose Share, then "
            "Copy channel ID, and give that id (UC…)"
        )
    return Named("channel", channel.id)
