"""`maia channel`: shows a channel's counts and uploads and how its videos usually do; stores its history."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from atlas.foreign import one_line
from atlas.wording import counted
from maia.commands.arguments import ShowsByDefault, TakesIds, parse_channel, parse_span
from maia.commands.resolving import channel_id_of
from maia.commands.tables import Column, print_table
from maia.commands.terminal import (
    AsJson,
    as_text,
    console,
    print_json,
    print_text,
    progress_bar,
    span_between,
    with_atlas,
)
from maia.views.words import ATTRIBUTION, plain

if TYPE_CHECKING:
    from rich.console import Console

    from atlas.composition import Atlas
    from maia.commands.arguments import Named
    from maia.commands.plots import Chart
    from maia.views.channel import ChannelView

app = typer.Typer(cls=ShowsByDefault, rich_markup_mode="markdown", add_completion=False)

_WIDEST_PLOT: Final = 140
_UPLOADS: Final = (
    "video", Column("title", 14), Column("age", right=True), Column("published", rank=5),
    Column("state", rank=4), Column("length", rank=3, right=True), Column("views", right=True),
    Column("× median", right=True), Column("views/h", right=True), Column("× usual", rank=1, right=True),
    Column("score", rank=2),
)  # fmt: skip
_NORMS: Final = (Column("age"), "videos", "views/h", "usually from", "up to")


@app.callback()
def channel() -> None:
    """Show a channel, or store all of its uploads."""


@app.command(cls=TakesIds)
def show(
    channel: Annotated[
        str,
        typer.Argument(metavar="CHANNEL", help="Its id, its title, its @handle or its address on YouTube."),
    ],
    window: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="Show only samples of the last 30d, say. [default: all]", show_default=False
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=1000, help="How many uploads.")] = 10,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also draw the curves into a PNG file (needs the extra plots).",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a channel: subscribers and views over time, its newest uploads, and how its videos usually do.

    `× median` is a video's views divided by the median of the channel's videos that are at least a week old,
    with short videos (up to 3 minutes) and longer ones counted apart. `× usual` is its views per hour divided
    by what the channel's videos usually have at that age. To look up a @handle costs one unit of quota.

    For example:

    - `maia channel UCuAXFkgsw1L7xaCfnd5JJOw`
    - `maia channel @handle --window 30d --png channel.png`
    - `maia channel "Tape Loop FM" --json`
    - `maia channel uploads @handle --all` stores all of its uploads: see `maia channel uploads --help`.

    Velocity, medians, and every figure derived from them are computed by Pleiades, not by YouTube.
    """
    named, span = parse_channel(channel), parse_span(window, "--window")
    view = with_atlas(lambda atlas: _look(atlas, named, span, limit))
    if png is not None:
        _draw(view, png)
    if as_json:
        print_json(plain(view))
        return
    _print(view)
    if png is not None:
        print_text(f"The curves are in {png}.")


@app.command(cls=TakesIds)
def uploads(
    channel: Annotated[
        str,
        typer.Argument(metavar="CHANNEL", help="Its id, its title, its @handle or its address on YouTube."),
    ],
    all_: Annotated[
        bool, typer.Option("--all", help="Go on to the oldest upload, not only through the newest 50.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Store a channel's uploads: the newest 50, or with --all its whole history.

    The videos are tracked from then on, most of them once a day. 50 uploads cost one unit of quota, and one
    more if some of them are new. The units come from the ring archeology, so the hunter and the tracker keep
    theirs. When these are used up, or when you press Ctrl-C, nothing is lost: give the same command with
    --all again, and it goes on from there. After more than 12 hours it lists again from the newest upload,
    and only stores the rest.

    For example:

    - `maia channel uploads @handle` stores the newest 50.
    - `maia channel uploads UCuAXFkgsw1L7xaCfnd5JJOw --all` stores all of them.
    - `maia channel uploads @handle --all --json | jq .finished`
    """
    named = parse_channel(channel)
    try:
        result = with_atlas(lambda atlas: _walk(atlas, named, None if all_ else 1, as_json=as_json))
    except KeyboardInterrupt:
        print_text("stopped; the same command goes on from there", stderr=True)
        raise
    if as_json:
        print_json(result)
        return
    _print_walk(result, all_=all_)


async def _walk(atlas: Atlas, named: Named, most_pages: int | None, *, as_json: bool) -> dict[str, Any]:
    from atlas.errors import RingClosed
    from atlas.keyring import KeyRing
    from maia import acts
    from maia.discovery.history import History
    from maia.youtube.client import YouTube
    from maia.youtube.errors import QuotaExhausted

    channel_id = await channel_id_of(atlas, named)
    keys = KeyRing("archeology", atlas=atlas)
    about: dict[str, Any] = {"kind": "channel", "channel_id": channel_id, "all": most_pages is None}
    await acts.record(atlas, "uploads", [about])
    closed, total = None, None
    async with YouTube.open(atlas.settings.youtube, keys, clock=atlas.clock) as youtube:
        history = History(atlas, youtube, channel_id, resume=most_pages is None)
        walk = await history.begin()
        before = walk
        with progress_bar("Uploads", hidden=as_json) as update:
            try:
                async for step in history.steps(walk, most_pages):
                    walk, total = step.walk, step.total
                    update(walk.listed, total, counted(walk.stored, "new upload"))
            except (RingClosed, QuotaExhausted) as error:
                closed = error
    return {
        "channel_id": channel_id,
        "pages": walk.pages,
        "listed": walk.listed,
        "stored": walk.stored,
        "stored_now": walk.stored - before.stored,
        "total": total,
        "finished": walk.finished_at is not None,
        "reopens_at": closed and closed.reopens_at,
        "units": youtube.requests["general"],
    }


def _print_walk(result: dict[str, Any], *, all_: bool) -> None:
    name = result["channel_id"]
    print_text(
        f"stored {counted(result['stored_now'], 'new upload')} of {name}; {result['listed']:,} listed so "
        f"far, for {counted(result['units'], 'unit')}"
    )
    if result["finished"]:
        print_text("That is all of them.")
    elif all_:
        listed = counted(result["listed"], "upload")
        listed += "" if result["total"] is None else f" of about {result['total']:,}"
        at = result["reopens_at"]
        when = "when keys work again (maia keys)" if at is None else f"from {as_text(at)} on"
        print_text(
            f"The quota of the ring archeology is used up for now, with {listed} "
            f"listed. Give the same command again {when}: it goes on from there."
        )
    else:
        print_text(f"For the older ones: maia channel uploads {name} --all")


async def _look(atlas: Atlas, named: Named, window: timedelta | None, uploads: int) -> ChannelView:
    from maia.errors import MaiaError
    from maia.views.channel import channel

    channel_id = await channel_id_of(atlas, named)
    view = await channel(atlas, channel_id, window, uploads)
    if view is None:
        raise MaiaError(
            f"{channel_id} is not known: let the tracker fetch it with maia watch add {channel_id}"
        )
    return view


def _charts(view: ChannelView) -> list[Chart]:
    from maia.commands.plots import Chart

    at = [sample.sampled_at for sample in view.samples]
    return [
        Chart.of("subscribers", at, [sample.subscribers for sample in view.samples]),
        Chart.of("views", at, [sample.views for sample in view.samples]),
    ]


def _draw(view: ChannelView, png: Path) -> None:
    from maia.commands.plots import PlotError, save_charts

    if not view.samples:
        raise PlotError(f"there is nothing to draw for {view.id}: {_without_samples(view)}")
    hidden = "hidden subscribers"
    subscribers = hidden if view.subscribers is None else counted(view.subscribers, "subscriber")
    subtitle = f"{view.id} · {subscribers} · {counted(view.videos_stored, 'video')} stored"
    save_charts(_charts(view), png, title=view.title or view.id, subtitle=subtitle)


# In the terminal


def _print(view: ChannelView) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(one_line(view.title or view.id), style=f"bold link {view.url}"))
    out.print(_facts(view))
    if view.samples:
        _print_curves(out, view)
    else:
        out.print(f"{_without_samples(view)}.")
    out.print()
    _print_uploads(view)
    _print_norms(view)
    out.print(f"Velocity, medians and figures derived from them: {ATTRIBUTION}.", style="dim")


def _facts(view: ChannelView) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    counts = {"subscriber": view.subscribers, "view": view.views, "video": view.videos}
    visible = ", ".join(counted(count, name) for name, count in counts.items() if count is not None)
    as_of = "" if view.counted_at is None else f", as of {as_text(view.counted_at)}"
    pinned = f", its videos pinned to {view.pinned_zone}" if view.pinned_zone else ""
    nouns = {"short": "short video", "long": "longer video"}
    medians = (
        f"{counted(round(median.views), 'view')} ({counted(median.videos, nouns[median.length])})"
        for median in view.medians
    )
    facts = {
        "channel": view.id,
        "state": view.state,
        "counts": f"{visible or 'hidden'}{as_of}",
        "stored": f"{view.videos_stored:,} of its videos, since {as_text(view.discovered_at)}",
        "watched": f"yes{pinned}" if view.watched else None,
        "next sample": None if view.next_due_at is None else as_text(view.next_due_at),
        "medians": "; ".join(medians) or None,
    }
    for name, value in facts.items():
        if value is not None:
            grid.add_row(name, Text(value))
    return grid


def _without_samples(view: ChannelView) -> str:
    if view.counted_at is not None:
        return f"No sample in the window: the last one is from {as_text(view.counted_at)}"
    when = "the tracker samples every channel once a day" if view.state != "gone" else "it is gone"
    return f"No sample yet: {when}"


def _print_curves(out: Console, view: ChannelView) -> None:
    from maia.commands.plots import chart_plot, print_plot

    print_plot(out, chart_plot(_charts(view), min(out.width, _WIDEST_PLOT) - 1))


def _print_uploads(view: ChannelView) -> None:
    from maia.commands.plots import compact

    def number(value: float | None) -> str:
        return "–" if value is None else compact(value)

    rows = [
        (
            each.id, each.title, span_between(each.published_at, view.now), each.published_at, each.state,
            None if each.duration_s is None else str(timedelta(seconds=each.duration_s)),
            "hidden" if each.views is None else compact(each.views), number(each.multiple),
            number(each.velocity), number(each.relative_velocity), each.viral_score,
        )
        for each in view.uploads
    ]  # fmt: skip
    for length, title in (("long", "Newest uploads"), ("short", "Newest short uploads (up to 3 minutes)")):
        shown_rows = [
            row
            for row, each in zip(rows, view.uploads, strict=True)
            if (each.length == "short") == (length == "short")
        ]
        if shown_rows:
            print_table(_UPLOADS, shown_rows, title=title)


def _print_norms(view: ChannelView) -> None:
    rows = [
        (
            _ages(norm.from_age_h, norm.to_age_h), norm.videos, round(norm.views_per_hour), round(norm.low),
            round(norm.high),
        )
        for norm in view.norms
    ]  # fmt: skip
    if rows:
        print_table(_NORMS, rows, title="How its videos usually grow, by age")


def _ages(begin_h: float, end_h: float | None) -> str:
    def text(hours: float) -> str:
        return f"{hours:g} h" if hours < 72 else f"{hours / 24:g} d"

    return f"over {text(begin_h)}" if end_h is None else f"{text(begin_h)} to {text(end_h)}"
