"""`maia watch`: videos and channels that are followed whatever their age."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from maia.arguments import ZoneName, looks_like_a_video, parse_named, zone_name, zone_number
from maia.terminal import AsJson, print_json, print_table, with_atlas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.adapters.watches import Watch, Watched, WatchesDAO, WatchLine
    from atlas.composition import Atlas
    from maia.arguments import Named

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

Given = Annotated[
    list[str],
    typer.Argument(metavar="VIDEO|CHANNEL", help="Ids or addresses on YouTube.", show_default=False),
]


@app.callback()
def watch() -> None:
    """Follow videos and channels closely: list, add and remove watches."""


@app.command()
def add(
    given: Given,
    zone: Annotated[
        ZoneName | None,
        typer.Option(
            help="Sample them as often as this zone, whatever their age; without it, as their age has it.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch videos and channels; a channel's zone is that of all its videos, those yet to come too.

    What comes into a more urgent zone is due at once. What nobody has met is recorded, and fetched by the
    tracker at its next turn, if it has a key: maia tracker. A video's own watch goes before its channel's.

    For example:

    - `maia watch add https://www.youtube.com/watch?v=dQw4w9WgXcQ --zone hot` samples it every hour.
    - `maia watch add UCuAXFkgsw1L7xaCfnd5JJOw --zone warm` samples a channel's every video every 6 hours.
    """
    named = [parse_named(text) for text in given]

    async def change(atlas: Atlas) -> tuple[Watched, list[WatchLine], bool]:
        dao = _dao(atlas)
        watches = await _resolved(dao, named)
        changed = await dao.add(watches, zone_number(zone))
        return changed, await _lines(dao, watches), bool(atlas.settings.key_pool["tracking"])

    changed, lines, has_key = with_atlas(change)
    if as_json:
        print_json(asdict(changed) | {"watching": [_as_dict(line) for line in lines]})
        return
    pace = f"in zone {zone}" if zone else "at the pace of their age (--zone hot: every hour)"
    typer.echo(
        f"watching {changed.watches} of them, {pace}; {changed.videos_pinned} known videos changed zone"
    )
    if unknown := [line.id for line in lines if not line.known]:
        when = "at its next turn" if has_key else "once it has a key (YOUTUBE_API_KEY_POOL_JSON)"
        typer.echo(f"not known yet, and fetched by the tracker {when}: {', '.join(unknown)}")
    if gone := [line.id for line in lines if line.status == "gone"]:
        typer.echo(f"gone from YouTube when last asked for: {', '.join(gone)}")


@app.command()
def remove(given: Given, as_json: AsJson = False) -> None:
    """Watch videos and channels no more; from its next sample on, a video goes by its age again."""
    named = [parse_named(text) for text in given]

    async def change(atlas: Atlas) -> Watched:
        dao = _dao(atlas)
        return await dao.remove(await _resolved(dao, named))

    changed = with_atlas(change)
    if as_json:
        print_json(asdict(changed))
        return
    hint = "" if changed.watches else ": none of them was (maia watch list shows what is)"
    typer.echo(f"watching {changed.watches} of them no more{hint}; {changed.videos_pinned} videos changed")


@app.command("list")
def list_watches(as_json: AsJson = False) -> None:
    """List what is watched, the oldest watch first."""
    lines = with_atlas(lambda atlas: _dao(atlas).watches())
    if as_json:
        print_json([_as_dict(line) for line in lines])
        return
    columns = ("kind", "id", "title", "zone", "status", "videos", "last sample", "next sample")
    print_table(columns, [_row(line) for line in lines])


def _dao(atlas: Atlas) -> WatchesDAO:
    from atlas.adapters.watches import WatchesDAO

    return WatchesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def _resolved(dao: WatchesDAO, named: Sequence[Named]) -> list[Watch]:
    """What they are: as their address says, as they are stored, or as the form of their ids has it."""
    from atlas.adapters.watches import Watch, WatchKind

    stored = await dao.kinds_of([each.id for each in named])
    watches = []
    for each in named:
        kind = each.kind or stored.get(each.id) or ("video" if looks_like_a_video(each.id) else None)
        if kind is None:
            raise typer.BadParameter(
                f"{each.id!r} is known neither as a video nor as a channel, and has the form of neither's id "
                "(11 characters, or UC and 22): give its address on YouTube"
            )
        watches.append(Watch(WatchKind(kind), each.id))
    return watches


async def _lines(dao: WatchesDAO, watches: Sequence[Watch]) -> list[WatchLine]:
    wanted = {(watch.kind, watch.id) for watch in watches}
    return [line for line in await dao.watches() if (line.kind, line.id) in wanted]


def _as_dict(line: WatchLine) -> dict[str, object]:
    return asdict(line) | {"zone": zone_name(line.zone)}


def _row(line: WatchLine) -> tuple[object, ...]:
    asked = f"asked for {line.asks} times" if line.asks else "to be fetched"
    return (
        line.kind, line.id, line.title, zone_name(line.zone) or "by age",
        (line.status or "live") if line.known else asked,
        line.videos, line.last_sampled_at, line.next_due_at,
    )  # fmt: skip
