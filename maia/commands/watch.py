"""`maia watch`: adds, removes and lists watches on videos and channels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.wording import counted
from maia.commands.arguments import (
    TakesIds,
    looks_like_a_video,
    parse_named,
)
from maia.commands.resolving import resolve
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas
from maia.views.words import ZoneName, plain, zone_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.adapters.watches import Watch, WatchesChanged, WatchesDAO, WatchLine
    from atlas.composition import Atlas
    from maia.commands.arguments import Named

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

Given = Annotated[
    list[str],
    typer.Argument(
        metavar="VIDEO|CHANNEL", help="Ids, @handles or addresses on YouTube.", show_default=False
    ),
]


@app.callback()
def watch() -> None:
    """Follow videos and channels closely: list, add and remove watches."""


@app.command(cls=TakesIds)
def add(
    given: Given,
    zone: Annotated[
        ZoneName | None,
        typer.Option(
            help="How often to sample them: hot every hour, warm every 6 hours, cold once a day. "
            "[default: by the video's age]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch videos and channels: sample them even if no search finds them, and as often as you like.

    A channel's zone applies to all its videos, also to future ones; a video's own zone takes precedence. If
    you add something again without a zone, it keeps the zone it has; to clear that, remove it and add it
    again. The tracker fetches videos and channels that are not stored yet in its next cycle (maia tracker).
    Looking up a @handle or a user name costs one unit of quota.

    For example:

    - `maia watch add https://www.youtube.com/watch?v=dQw4w9WgXcQ --zone hot` samples it every hour.
    - `maia watch add UCuAXFkgsw1L7xaCfnd5JJOw --zone warm` samples all of a channel's videos every 6 hours.
    - `maia watch add @handle https://www.youtube.com/user/name` watches both channels.
    """
    named = [parse_named(text) for text in given]

    async def change(atlas: Atlas) -> tuple[WatchesChanged, list[WatchLine], bool]:
        from maia import acts

        dao = _dao(atlas)
        watches = await _watches(dao, await resolve(atlas, named))
        changed = await acts.watch(atlas, watches, zone)
        return changed, await _lines(dao, watches), bool(atlas.settings.key_pool["tracking"])

    changed, lines, has_key = with_atlas(change)
    if as_json:
        print_json(asdict(changed) | {"watching": [_as_dict(line) for line in lines]})
        return
    pinned = sorted({name for line in lines if (name := zone_name(line.zone))})
    zones = (
        f"in zone {', '.join(pinned)}" if pinned else "as often as their age says (--zone hot: every hour)"
    )
    print_text(
        f"watching {changed.watches}, {zones}; known videos that changed zone: {changed.videos_pinned}"
    )
    if unknown := [line.id for line in lines if not line.known]:
        when = "in its next cycle" if has_key else "once it has a key (YOUTUBE_API_KEY_POOL_JSON)"
        print_text(f"not stored yet; the tracker fetches them {when}: {', '.join(unknown)}")
    if gone := [line.id for line in lines if line.status == "gone"]:
        print_text(f"gone from YouTube, when last checked: {', '.join(gone)}")


@app.command(cls=TakesIds)
def remove(given: Given, as_json: AsJson = False) -> None:
    """Stop watching videos and channels; from then on their age decides how often they are sampled."""
    named = [parse_named(text) for text in given]

    async def change(atlas: Atlas) -> WatchesChanged:
        from maia import acts

        return await acts.unwatch(atlas, await _watches(_dao(atlas), await resolve(atlas, named)))

    changed = with_atlas(change)
    if as_json:
        print_json(asdict(changed))
        return
    if not changed.watches:
        print_text("none of them is watched; maia watch list shows what is")
        return
    print_text(f"stopped watching {changed.watches}; known videos that changed zone: {changed.videos_pinned}")


@app.command("list")
def list_watches(as_json: AsJson = False) -> None:
    """List the watched videos and channels, the oldest watch first."""
    lines = with_atlas(lambda atlas: _dao(atlas).watches())
    if as_json:
        print_json([_as_dict(line) for line in lines])
        return
    if not lines:
        print_text("Nothing is watched; to start: maia watch add VIDEO|CHANNEL")
        return
    columns = (
        Column("kind", rank=4), "id", Column("title", 12), "zone", Column("status", 8, wraps=True),
        Column("videos", rank=1), Column("last sample", rank=3), Column("next sample", rank=2),
    )  # fmt: skip
    print_table(columns, [_row(line) for line in lines])


def _dao(atlas: Atlas) -> WatchesDAO:
    from atlas.adapters.watches import WatchesDAO

    return WatchesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def _watches(dao: WatchesDAO, named: Sequence[Named]) -> list[Watch]:
    """The watches for these names, whose kinds come from addresses, the database or the form of ids."""
    from atlas.adapters.watches import Watch, WatchKind

    stored = await dao.kinds_of([each.id for each in named])
    watches = []
    for each in named:
        kind = each.kind or stored.get(each.id) or ("video" if looks_like_a_video(each.id) else None)
        if kind is None:
            raise typer.BadParameter(
                f"{each.id!r} is neither stored nor a valid id of a video (11 characters) or a channel (UC "
                "and 22 characters): give its address on YouTube, or a channel's @handle"
            )
        watches.append(Watch(WatchKind(kind), each.id))
    return watches


async def _lines(dao: WatchesDAO, watches: Sequence[Watch]) -> list[WatchLine]:
    wanted = {(watch.kind, watch.id) for watch in watches}
    return [line for line in await dao.watches() if (line.kind, line.id) in wanted]


def _as_dict(line: WatchLine) -> dict[str, object]:
    described: dict[str, object] = plain(line)
    return described | {"zone": zone_name(line.zone)}


def _row(line: WatchLine) -> tuple[object, ...]:
    asked = f"requested {counted(line.asks, 'time')}" if line.asks else "to be fetched"
    return (
        line.kind, line.id, line.title, zone_name(line.zone) or "by age",
        _state(line) if line.known else asked, line.videos, line.last_sampled_at, line.next_due_at,
    )  # fmt: skip


def _state(line: WatchLine) -> str:
    return "gone" if line.status == "gone" else "tracked"
